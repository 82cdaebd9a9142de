//! Shards that are open for tests which are not about gates.

use std::time::Duration;

use crate::engine::{
    Engine, EngineError, Opened, Opening, PushOrigin, ShardId, ShardSettings, Validity,
};
use crate::limits::PUSH_WINDOW;
use crate::model::id::LedgerId;
use crate::model::time::Timestamp;

/// The ledger that a shard is opened for when a test has none.
pub const LEDGER: LedgerId = LedgerId::from_bytes([0x1e; 16]);

/// For a push that is good until then, into a shard of [`LEDGER`], whatever its generation.
pub const fn until(not_after: Timestamp) -> Validity {
    Validity { ledger: LEDGER, generation: u64::MAX, not_after, origin: PushOrigin::Ledger }
}

/// As [`open_shard_of`], for the ledger that the shard has been shut for before, or else for [`LEDGER`].
///
/// # Errors
/// Those of the engine.
pub async fn open_shard(
    engine: &Engine,
    shard: &ShardId,
    settings: ShardSettings,
) -> Result<bool, EngineError> {
    let ledger = engine.gate(shard).await?.gate.map_or(LEDGER, |gate| gate.ledger);
    open_shard_of(engine, shard, settings, ledger).await
}

/// Gives a shard settings, and opens its gate if it is shut: one generation up, without ramp and without grace, as if
/// it had been compared with the ledger. Whether the settings were taken: `false` if the shard has newer ones.
///
/// # Errors
/// Those of the engine.
///
/// # Panics
/// When somebody else shuts the shard meanwhile, or it belongs to another ledger.
pub async fn open_shard_of(
    engine: &Engine,
    shard: &ShardId,
    settings: ShardSettings,
    ledger: LedgerId,
) -> Result<bool, EngineError> {
    let taken = engine.configure(shard, &settings).await?;
    let view = engine.gate(shard).await?;
    if view.is_open() {
        return Ok(taken);
    }
    let generation = view.gate.map_or(1, |gate| gate.generation + 1);
    let not_after = engine.now().await?.plus(PUSH_WINDOW);
    engine.shut(shard, ledger, generation, not_after).await?;
    let opening = Opening {
        settings,
        ledger,
        generation,
        process: view.process,
        grace: Duration::ZERO,
        slots: 0,
        ramp: Duration::ZERO,
    };
    let opened = engine.open_gate(shard, &opening).await?;
    assert_eq!(opened, Opened::Open, "{shard}");
    Ok(taken)
}
