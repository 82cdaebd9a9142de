//! Random histories on the model: the promises hold at every step.

use std::collections::BTreeMap;
use std::time::Duration;

use windlass_shared::engine::ProcessId;
use windlass_shared::engine::model::Shard;
use windlass_shared::model::time::Timestamp;
use windlass_shared::testkit::histories::watch::{Seen, Watch};
use windlass_shared::testkit::histories::{BOUNDS, Call, Player, Reply, Step, apply, draw};

const STEPS: usize = 40;
const START: Timestamp = Timestamp::from_micros(1_700_000_000_000_250);

/// How often each interesting reply was seen: a generator that misses them tests nothing.
type Tally = BTreeMap<String, u64>;

fn play(steps: &[Step], tally: &mut Tally) -> Result<(), String> {
    let mut process = process(0);
    let mut model = Shard::new(BOUNDS, process);
    let mut player = Player::default();
    let mut watch = Watch::default();
    let mut now = START;
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Advance(us) => now = now.plus(Duration::from_micros(*us)),
            Step::Wipe => {
                model = Shard::new(BOUNDS, process);
                watch.forget();
            }
            Step::Restart => {
                process = self::process(number + 1);
                model = model.served_by(process);
            }
            _ => {}
        }
        let Some(call) = player.call(now, process, step) else { continue };
        let before = model.dump(now);
        let reply = apply(&mut model, now, &call);
        let after = model.dump(now);
        player.saw(&call, &reply, &after);
        count(&call, &reply, tally);
        if after.reported.len() > before.reported.len() {
            *tally.entry("reported".into()).or_default() += 1;
        }
        for outcome in after.outbox.iter().filter(|outcome| outcome.seq > before.last_seq) {
            let name = format!("{:?}", outcome.ended);
            *tally.entry(word(&name)).or_default() += 1;
        }
        let seen =
            Seen { now, process, before: &before, call: &call, reply: &reply, after: &after };
        let wrong = watch.step(&seen);
        if !wrong.is_empty() {
            return Err(format!("step {number}: {wrong:#?}\n{seen:#?}"));
        }
    }
    Ok(())
}

/// The `n`-th process that serves the shard.
fn process(n: usize) -> ProcessId {
    ProcessId::parse(&format!("{:040x}", n + 1)).expect("forty digits")
}

fn word(debug: &str) -> String {
    debug.split(['(', ' ', '{']).next().unwrap_or_default().to_owned()
}

fn count(call: &Call, reply: &Reply, tally: &mut Tally) {
    let mut seen = |name: String| *tally.entry(name).or_default() += 1;
    match (call, reply) {
        (_, Reply::Push(reply)) => reply.pushed.iter().for_each(|p| seen(format!("{p:?}"))),
        (_, Reply::Claim(reply)) => {
            seen(format!("{:?}", reply.state));
            reply.jobs.iter().for_each(|_| seen("leased".into()));
            if reply.next_offset > 0 {
                seen("next_offset".into());
            }
        }
        (_, Reply::Extend(replies)) => {
            replies.leases.iter().for_each(|r| seen(format!("extend {}", word(&format!("{r:?}")))));
        }
        (_, Reply::Settle(replies)) => {
            replies.settles.iter().for_each(|r| seen(format!("settle {r:?}")));
        }
        (_, Reply::Cancel(replies)) => replies.iter().for_each(|r| seen(format!("cancel {r:?}"))),
        (_, Reply::Shut(shut)) => seen(format!("shut-{}", word(&format!("{shut:?}")))),
        (_, Reply::OpenGate(opened)) => seen(format!("opened-{opened:?}")),
        (_, Reply::Adopt(replies)) => {
            replies.iter().for_each(|r| seen(format!("adopt-{}", word(&format!("{r:?}")))));
        }
        (_, Reply::Drop(dropped)) => dropped.iter().for_each(|d| seen(format!("drop-{d}"))),
        (_, Reply::Seal(sealed)) => seen(format!("seal-{sealed}")),
        (_, Reply::Withdraw(replies)) => {
            replies.leases.iter().for_each(|r| seen(format!("withdrawn-{r:?}")));
        }
        (_, Reply::Configure(applied)) => seen(format!("configure {applied}")),
        (_, Reply::Refused(groups)) => groups.iter().for_each(|_| seen("refused".into())),
        (_, Reply::Leased(running)) if !running.is_empty() => seen("running".into()),
        _ => {}
    }
}

fn play_all(seeds: std::ops::Range<u64>) {
    let mut tally = Tally::new();
    for seed in seeds.clone() {
        let steps = draw(seed, STEPS);
        if let Err(wrong) = play(&steps, &mut tally) {
            let shorter = shortest(steps);
            panic!("seed {seed}: {wrong}\nshorter: {shorter:#?}");
        }
    }
    let expected = "Added Present Late Full Crowded refused Open Unverified Paused Braked Warming leased next_offset \
        Succeeded Retry Dead Snoozed Released Cancelled Expired Lost Quarantined running shut-Shut shut-Newer shut-Late opened-Open opened-Moved opened-Newer \
        adopt-Held adopt-Over adopt-Stolen drop-true drop-false reported \
        seal-true seal-false withdrawn-Out withdrawn-Waits withdrawn-Behind withdrawn-Known withdrawn-Stolen";
    let verbs =
        ["extend Held", "extend Gone", "extend Stolen", "settle Settled", "settle Repeated"];
    let more =
        ["settle Gone", "settle Stolen", "cancel Removed", "cancel Absent", "cancel Running"];
    let last = ["cancel Finishing", "configure true", "configure false"];
    let count = seeds.end - seeds.start;
    for name in expected.split_whitespace().chain(verbs).chain(more).chain(last) {
        let times = tally.get(name).copied().unwrap_or(0);
        assert!(times > count / 200, "{name} was seen {times} times in {count} histories");
    }
}

fn shortest(mut steps: Vec<Step>) -> Vec<Step> {
    let mut at = 0;
    while at < steps.len() {
        let mut shorter = steps.clone();
        shorter.remove(at);
        if play(&shorter, &mut Tally::new()).is_err() { steps = shorter } else { at += 1 }
    }
    steps
}

#[test]
fn promises_hold_in_random_histories_1() {
    play_all(0..5_000);
}

#[test]
fn promises_hold_in_random_histories_2() {
    play_all(5_000..10_000);
}

#[test]
fn promises_hold_in_random_histories_3() {
    play_all(10_000..15_000);
}

#[test]
fn promises_hold_in_random_histories_4() {
    play_all(15_000..20_000);
}
