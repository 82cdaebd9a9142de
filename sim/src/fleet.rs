//! Many worlds, each in a process of its own: what a process remembers (statics, counters of the libraries) is part
//! of a world, too, and a world that hangs or dies takes nobody with it.

use std::io::Read as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::faults::Faults;

/// A world that takes longer hangs.
const WORLD_MAX: Duration = Duration::from_secs(120);
/// How often a world is asked whether it is over.
const ASK_EVERY: Duration = Duration::from_millis(2);
/// Broken seeds that are told with everything.
const TOLD_MAX: usize = 10;

/// A range of seeds, both ends included.
#[derive(Debug, Clone)]
pub struct Seeds(u64, u64);

impl FromStr for Seeds {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<u64>().map_err(|e| e.to_string());
        let (from, to) = match text.split_once("..") {
            Some((from, to)) => (number(from)?, number(to.trim_start_matches('='))?),
            None => (number(text)?, number(text)?),
        };
        if from > to || to - from > 10_000_000 {
            return Err("names no seeds, or too many".into());
        }
        Ok(Self(from, to))
    }
}

/// What one process said at its end.
struct Said {
    status: Option<ExitStatus>,
    text: String,
}

impl Said {
    fn kept(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    fn last(&self) -> &str {
        self.text.lines().last().unwrap_or("said nothing")
    }
}

/// Lives through the worlds of these seeds; whether all of them kept every promise.
///
/// # Errors
/// A process cannot be started.
pub fn run(
    seeds: &Seeds,
    faults: Faults,
    twice: bool,
    at_once: Option<usize>,
) -> anyhow::Result<bool> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let at_once = at_once.unwrap_or(cores).max(1);
    let started = Instant::now();
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let count = usize::try_from(seeds.1 - seeds.0 + 1)?;
    let work = || -> anyhow::Result<()> {
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            if place >= count {
                return Ok(());
            }
            let seed = seeds.0 + place as u64;
            if let Some(why) = live(seed, faults, twice)? {
                let mut failed = failed.lock().expect("nobody panics while holding it");
                if failed.len() < TOLD_MAX {
                    println!("{why}");
                }
                failed.push(seed);
            }
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..at_once).map(|_| scope.spawn(work)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, anyhow::Result<()>>| {
            thread.join().expect("the threads that wait don't panic")
        };
        threads.into_iter().try_for_each(join)
    })?;
    let mut failed = failed.into_inner().expect("nobody panics while holding it");
    failed.sort_unstable();
    let seconds = started.elapsed().as_secs_f64();
    println!("{count} worlds in {seconds:.1} s; {} broke a promise: {failed:?}", failed.len());
    if let Some(seed) = failed.first() {
        let faults = format!("{faults:?}").to_lowercase();
        println!("again: windlass-sim replay {seed} --faults {faults}");
    }
    Ok(failed.is_empty())
}

/// What is wrong with a seed.
fn live(seed: u64, faults: Faults, twice: bool) -> anyhow::Result<Option<String>> {
    let first = once(seed, faults)?;
    if !first.kept() {
        let how = first.status.map_or("hung".into(), |status| status.to_string());
        return Ok(Some(format!("seed {seed}: {how}\n{}", first.text)));
    }
    if twice {
        let second = once(seed, faults)?;
        if first.last() != second.last() {
            let (a, b) = (first.last(), second.last());
            return Ok(Some(format!("seed {seed} is not the same again:\n  {a}\n  {b}")));
        }
    }
    Ok(None)
}

fn once(seed: u64, faults: Faults) -> anyhow::Result<Said> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["one", "--quiet", "--faults", &format!("{faults:?}").to_lowercase()])
        .arg(seed.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start a process for a world")?;
    let mut stdout = child.stdout.take().context("the output is piped")?;
    let mut stderr = child.stderr.take().context("the output is piped")?;
    let errors = std::thread::spawn(move || {
        let mut text = String::new();
        // What cannot be read is not told; the end of the process tells enough.
        let _ = stderr.read_to_string(&mut text);
        text
    });
    let watch = std::thread::spawn(move || watched(child));
    let mut text = String::new();
    stdout.read_to_string(&mut text)?;
    let status = watch.join().expect("waiting does not panic")?;
    let errors = errors.join().expect("reading does not panic");
    Ok(Said { status, text: if errors.is_empty() { text } else { format!("{errors}{text}") } })
}

/// Waits for the end; `None`: it hung, and was killed.
fn watched(mut child: Child) -> std::io::Result<Option<ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() > WORLD_MAX {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(ASK_EVERY);
    }
}
