//! Processes read the clocks that the shim shows them.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use windlass_rig::tools::clock_shim::{ClockShim, Which};
use windlass_shared::testkit::redis_server::resp::Connection;

use crate::child::{Running, rig, until};

const SECOND_MS: i64 = 1_000;
/// How far two readings of the same clock may be apart on a busy machine.
const TOLERANCE_MS: i64 = 3_000;

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_millis()).unwrap()
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Reads wall time by `read` after each move of the clock.
fn assert_moves(shim: &ClockShim, mut read: impl FnMut() -> i64) {
    let mut assert_ahead = |by: i64| {
        let ahead = read() - now_ms();
        assert!((ahead - by).abs() < TOLERANCE_MS, "{ahead} ms ahead instead of {by}");
    };
    assert_ahead(0);
    shim.step(60 * SECOND_MS).unwrap();
    assert_ahead(60 * SECOND_MS);
    shim.step(60 * SECOND_MS).unwrap();
    assert_ahead(120 * SECOND_MS);
    shim.offset(0).unwrap();
    assert_ahead(0);
    shim.step(-60 * SECOND_MS).unwrap();
    assert_ahead(-60 * SECOND_MS);
    shim.offset(-300 * SECOND_MS).unwrap();
    assert_ahead(-300 * SECOND_MS);
}

#[test]
fn redis_tells_the_time_that_it_is_shown() {
    let shim = ClockShim::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut command = Command::new("redis-server");
    let port_text = port.to_string();
    command.args(["--port", &port_text, "--bind", "127.0.0.1", "--save", "", "--dir"]);
    shim.apply(command.arg(folder.path()));
    let _server = Running::start(&mut command);
    until("redis listens", || Connection::open(port).is_ok());
    let mut connection = Connection::open(port).unwrap();
    assert_moves(&shim, || {
        let script = "local t = redis.call('TIME') return t[1] * 1000 + math.floor(t[2] / 1000)";
        let reply = connection.call(&["EVAL", script, "0"]).unwrap();
        reply.text().parse().unwrap()
    });
    // It expires keys by that time, and goes on working.
    shim.offset(0).unwrap();
    connection.call(&["SET", "k", "1", "EX", "50"]).unwrap().expect_ok();
    shim.step(60 * SECOND_MS).unwrap();
    let gone = || connection.call(&["EXISTS", "k"]).unwrap().text() == "0";
    until("the key has expired", gone);
}

/// The folder of PostgreSQL's programs.
fn postgres_programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    versions.map(|version| version.unwrap().path().join("bin")).max().expect("a version of it")
}

/// A program of PostgreSQL, as a user that it accepts.
fn as_nobody(program: &str) -> Command {
    let program = postgres_programs().join(program);
    if windlass_rig::tools::power_cut::missing().iter().any(|text| text.contains("root")) {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).arg(program);
    command
}

fn start_postgres(shim: &ClockShim, folder: &Path) -> Running {
    let data = folder.join("data");
    let mut initdb = as_nobody("initdb");
    initdb.args(["-U", "windlass", "-A", "trust", "--no-sync", "--locale=C", "-D"]).arg(&data);
    let output = initdb.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut command = as_nobody("postgres");
    command.arg("-D").arg(&data).arg("-k").arg(folder).args(["-c", "listen_addresses="]);
    shim.apply(&mut command);
    Running::start(&mut command)
}

#[test]
fn postgresql_tells_the_time_that_it_is_shown() {
    use std::os::unix::fs::PermissionsExt;
    let shim = ClockShim::new().unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let _server = start_postgres(&shim, folder.path());
    let query = |sql: &str| {
        let mut psql = Command::new(postgres_programs().join("psql"));
        psql.arg("-h").arg(folder.path()).args(["-U", "windlass", "-XAtqc", sql, "postgres"]);
        let output = psql.output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    };
    until("postgres answers", || query("select 1").is_some());
    assert_moves(&shim, || {
        let sql = "select floor(extract(epoch from clock_timestamp()) * 1000)::bigint";
        query(sql).expect("it answers").trim().parse().unwrap()
    });
}

fn numbers(line: &str) -> (i64, i64) {
    let (wall, mono) = line.split_once(' ').unwrap();
    (wall.parse().unwrap(), mono.parse().unwrap())
}

#[test]
fn rust_programs_tell_it_too_and_clocks_stay_in_their_folder() {
    let folder = tempfile::tempdir().unwrap();
    let folder_text = folder.path().to_str().unwrap();
    let set = |change: &[&str]| {
        let mut arguments = vec!["clock", "set", "--folder", folder_text];
        arguments.extend_from_slice(change);
        assert!(rig(&arguments).status().unwrap().success(), "{change:?}");
    };
    let program = env!("CARGO_BIN_EXE_windlass-rig");
    let ahead = || {
        let run = ["clock", "run", "--folder", folder_text, "--", program, "clock", "show"];
        numbers(&Running::start(&mut rig(&run)).line()).0 - now_ms()
    };
    for (change, expected) in [
        (vec!["--step-ms", "60000"], 60_000),
        (vec!["--step-ms", "-120000"], -60_000),
        (vec!["--offset-ms=-300000"], -300_000),
    ] {
        set(&change);
        assert!((ahead() - expected).abs() < TOLERANCE_MS, "{change:?}");
    }
    let wrong = rig(&["clock", "set", "--folder", folder_text, "--rate", "0"]).output().unwrap();
    assert!(!wrong.status.success());
}

#[test]
fn at_ten_times_the_rate_waits_take_a_tenth() {
    let shim = ClockShim::new().unwrap();
    shim.rate(Which::Mono, 10.0).unwrap();
    let mut command = rig(&["clock", "show", "--wait-ms", "5000"]);
    shim.apply(&mut command);
    let mut program = Running::start(&mut command);
    let (_, begun) = numbers(&program.line());
    let from = Instant::now();
    let (_, ended) = numbers(&program.line());
    let took = from.elapsed();
    assert!(ended - begun >= 10_000, "its own clock says that it waited: {begun} to {ended} ms");
    // Both waits of 5 s, really of 0.5 s each.
    assert!(took > Duration::from_millis(900), "{took:?}");
    assert!(took < Duration::from_secs(6), "{took:?}");
}

#[test]
fn wall_time_at_ten_times_the_rate_leaves_the_monotonic_clock_alone() {
    let shim = ClockShim::new().unwrap();
    shim.rate(Which::Real, 10.0).unwrap();
    let mut command = rig(&["clock", "show", "--wait-ms", "300"]);
    shim.apply(&mut command);
    let mut program = Running::start(&mut command);
    let (wall, mono) = numbers(&program.line());
    let (wall, mono) = {
        let later = numbers(&program.line());
        (later.0 - wall, later.1 - mono)
    };
    assert!(mono >= 600, "{mono}");
    assert!((wall - 10 * mono).abs() <= 100, "{wall} ms of wall time in {mono} ms");
}
