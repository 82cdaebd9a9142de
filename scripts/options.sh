# shellcheck shell=bash disable=SC2034
# The options of scripts that measure; to be sourced. Wants `usage`, which prints the help, and `fail`.

# $1 names, rest the arguments: `--NAME VALUE` into the variable NAME, `--no-build` into build=0.
take_options() {
    local names=" $1 "
    shift
    while [ $# -gt 0 ]; do
        case "$1" in
            --no-build) build=0 ;;
            -h | --help)
                usage
                exit 0
                ;;
            *)
                case "$names:$1" in
                    *" ${1#--} "*:--*) ;;
                    *) fail "unknown option $1; see --help" ;;
                esac
                [ $# -ge 2 ] || fail "$1 needs a value; see --help"
                printf -v "${1#--}" '%s' "$2"
                shift
                ;;
        esac
        shift
    done
}

# $1 what they are, $2 those asked for, with commas, rest those that there are.
all_known() {
    local what="$1" asked="$2" one
    shift 2
    for one in ${asked//,/ }; do
        case " $* " in
            *" $one "*) ;;
            *) fail "there is no $what '$one'; see --help" ;;
        esac
    done
}
