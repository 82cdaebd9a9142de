# Reads one HTML page; refuses it unless it has a title; prints its facts as one JSON object.
function quoted(text) { gsub(/[\\"]/, "", text); return "\"" text "\"" }
{
    line = $0
    if (match(line, /<title>[^<]*<\/title>/))
        title = substr(line, RSTART + 7, RLENGTH - 15)
    links += gsub(/<a [^>]*href=/, "", line)
    gsub(/<[^>]*>/, " ", line)
    words += split(line, unused, /[ \t]+/)
    bytes += length($0) + 1
}
END {
    if (title == "") {
        print "the page has no title" > "/dev/stderr"
        exit 1
    }
    printf "{\"title\": %s, \"words\": %d, \"links\": %d, \"bytes\": %d}\n", quoted(title), words, links, bytes
}
