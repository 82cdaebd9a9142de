//! Plays histories on an engine and on the model, side by side.

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use super::draw::{Step, draw};
use super::shrink::shrink;
use super::*;

/// The first step after which an engine and the model differ.
#[derive(Debug)]
pub struct Difference {
    /// Its place in the history, from 0.
    pub step: usize,
    /// What was called, at which engine time.
    pub call: (Timestamp, Call),
    /// The replies, if they differ: the engine's, the model's.
    pub replies: Option<(Reply, Reply)>,
    /// The states after it, if they differ: the engine's, the model's.
    pub states: Option<Box<(ShardDump, ShardDump)>>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (now, call) = &self.call;
        writeln!(f, "differs after step {} at {} µs: {call:#?}", self.step, now.micros())?;
        if let Some((engine, model)) = &self.replies {
            writeln!(f, "the engine replied {engine:#?}\nthe model replied {model:#?}")?;
        }
        if let Some(states) = &self.states {
            writeln!(f, "the engine's state {:#?}\nthe model's state {:#?}", states.0, states.1)?;
        }
        Ok(())
    }
}

/// Plays one history on a fresh shard of an engine and on a fresh model; where they first differ.
pub async fn play(engine: &mut impl Replay, steps: &[Step]) -> Option<Difference> {
    play_within(BOUNDS, engine, steps).await
}

/// The same with other bounds, which the engine has, too.
pub async fn play_within(
    bounds: Bounds,
    engine: &mut impl Replay,
    steps: &[Step],
) -> Option<Difference> {
    let mut process = engine.process().await;
    let mut model = Shard::new(bounds, process);
    let mut player = Player::default();
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Advance(us) => engine.advance(Duration::from_micros(*us)).await,
            Step::Wipe => {
                engine.wipe().await;
                model = Shard::new(bounds, process);
            }
            Step::Restart if engine.restart().await => {
                process = engine.process().await;
                model = model.served_by(process);
            }
            _ => {}
        }
        let now = engine.now().await;
        let Some(call) = player.call(now, process, step) else { continue };
        let (from_engine, used) = engine.call(&call).await;
        let from_model = apply(&mut model, used, &call);
        let (engine_state, model_state) = (engine.dump().await, model.dump(used));
        player.saw(&call, &from_model, &model_state);
        let replies = (from_engine != from_model).then_some((from_engine, from_model));
        let states = (engine_state != model_state).then(|| Box::new((engine_state, model_state)));
        if replies.is_some() || states.is_some() {
            return Some(Difference { step: number, call: (used, call), replies, states });
        }
    }
    None
}

/// Plays one history per seed, each on a fresh shard that `fresh` gives.
///
/// # Panics
/// When an engine differs from the model: shows the shortest history found that makes it differ.
pub async fn check<R: Replay>(seeds: Range<u64>, len: usize, fresh: impl AsyncFnMut() -> R) {
    check_within(BOUNDS, seeds, |seed| draw(seed, len), fresh).await;
}

/// The same with other bounds, which the engines have, too, and of other histories.
///
/// # Panics
/// As [`check`].
pub async fn check_within<R: Replay>(
    bounds: Bounds,
    seeds: Range<u64>,
    draw: impl Fn(u64) -> Vec<Step>,
    mut fresh: impl AsyncFnMut() -> R,
) {
    for seed in seeds {
        let steps = draw(seed);
        if play_within(bounds, &mut fresh().await, &steps).await.is_none() {
            continue;
        }
        let fails =
            async |steps: &[Step]| play_within(bounds, &mut fresh().await, steps).await.is_some();
        let steps = shrink(steps, fails).await;
        match play_within(bounds, &mut fresh().await, &steps).await {
            Some(difference) => panic!("seed {seed}, steps {steps:#?}\n{difference}"),
            None => panic!("seed {seed} differs, but not every time: steps {steps:#?}"),
        }
    }
}
