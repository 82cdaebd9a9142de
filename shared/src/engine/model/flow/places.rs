//! Places: where lanes stand, and who is next there.

use super::*;

/// Most shares whose tags are reckoned anew to find out who is next.
const RECKONED_MAX: u32 = 200;

/// Where a lane stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Turn {
    /// The place.
    pub place: Scope,
    /// Of its jobs.
    pub share: FlowKey,
    /// Of its first job.
    pub score: i64,
    /// The lane.
    pub lane: FlowKey,
    /// Of its jobs.
    pub kind: FlowKey,
}

impl Turn {
    /// Of the lane of this flow.
    pub(in crate::engine::model) fn of(flow: &Flow, place: Scope, score: i64) -> Self {
        Self { place, share: flow.share, score, lane: flow.lane, kind: flow.kind }
    }

    fn first_of(place: Scope, share: FlowKey) -> Self {
        Self { place, share, score: i64::MIN, lane: FlowKey::NONE, kind: FlowKey::NONE }
    }
}

impl FlowState {
    /// Where a lane stands, or would if it had jobs.
    pub(in crate::engine::model) fn place(&self, flow: &Flow) -> Scope {
        self.blocked.get(&flow.lane).copied().unwrap_or(Scope::free(flow.kind))
    }

    /// The first lane of a share at a place.
    pub(in crate::engine::model) fn first_turn(
        &self,
        place: Scope,
        share: FlowKey,
    ) -> Option<Turn> {
        let next = self.turns.range(Turn::first_of(place, share)..).next()?;
        (next.place == place && next.share == share).then_some(*next)
    }

    /// The kinds that have lanes which may be chosen.
    pub(in crate::engine::model) fn free_kinds(&self) -> Vec<FlowKey> {
        let mut kinds: Vec<FlowKey> =
            self.fair.range(Scope::range(ScopeKind::Free)).map(|(place, ..)| place.1).collect();
        kinds.dedup();
        kinds
    }

    /// The lane that is next for the first kind that has any which may be chosen.
    pub(in crate::engine::model) fn next_lane(&self) -> Option<FlowKey> {
        let (place, _, share) = self.fair.range(Scope::range(ScopeKind::Free)).next()?;
        self.first_turn(*place, *share).map(|turn| turn.lane)
    }

    /// Whether any lane may be chosen.
    pub(in crate::engine::model) fn has_any_turn(&self) -> bool {
        self.fair.range(Scope::range(ScopeKind::Free)).next().is_some()
    }

    /// The scopes for which lanes wait.
    pub(super) fn waited_for(&self) -> Vec<Scope> {
        let mut scopes: Vec<Scope> = self.fair.iter().map(|(place, ..)| *place).collect();
        scopes.dedup();
        scopes.retain(|scope| !scope.is_free());
        scopes
    }

    /// Whether a share has lanes anywhere.
    pub(super) fn stands_somewhere(&self, share: FlowKey) -> bool {
        let least = Scope(ScopeKind::Key, FlowKey::NONE);
        self.tags.range((share, least)..).next().is_some_and(|((of, _), _)| *of == share)
    }

    pub(super) fn first_tag(&self, place: Scope) -> Option<u64> {
        let (of, tag, _) = self.fair.range((place, 0, FlowKey::NONE)..).next()?;
        (*of == place).then_some(*tag)
    }

    /// Notes where a share stands at a place; `None`: it has no lanes there.
    pub(in crate::engine) fn set_tag(&mut self, place: Scope, share: FlowKey, tag: Option<u64>) {
        if let Some(before) = self.tags.remove(&(share, place)) {
            self.fair.remove(&(place, before, share));
        }
        if let Some(tag) = tag {
            self.tags.insert((share, place), tag);
            self.fair.insert((place, tag, share));
        }
    }

    /// The lane does not stand there any more.
    pub(super) fn unstand(&mut self, turn: Turn) {
        if self.turns.remove(&turn) && self.first_turn(turn.place, turn.share).is_none() {
            self.set_tag(turn.place, turn.share, None);
        }
    }

    /// The lane has another first job.
    pub(super) fn move_turn(&mut self, flow: &Flow, place: Scope, from: i64, to: i64) {
        self.turns.insert(Turn::of(flow, place, to));
        if from != to {
            self.turns.remove(&Turn::of(flow, place, from));
        }
    }
}

impl Shard {
    /// Puts a lane at a place. A share that is new among those that compete begins where the others are: it is not
    /// owed for the time in which it had nothing that could start.
    pub(super) fn stand(&mut self, now: Timestamp, turn: Turn) {
        let Turn { place, share, kind, .. } = turn;
        self.flow.turns.insert(turn);
        if self.flow.tags.contains_key(&(share, place)) {
            return;
        }
        if place.is_of_kind() && !self.competes(share, kind) {
            self.lift(now, share, self.level(kind));
        }
        let tag = self.tag(now, share);
        self.flow.set_tag(place, share, Some(tag));
    }

    /// Where a share begins for jobs of a kind: at the tag of whoever was chosen last, or of who is next for this kind
    /// if that is less. Pools of workers with different kinds are at different tags.
    fn level(&self, kind: FlowKey) -> u64 {
        let next = self.contested(kind).into_iter().filter_map(|place| self.flow.first_tag(place));
        next.chain([self.flow.virtual_ms]).min().unwrap_or_default()
    }

    /// Whether a share is among those that are next one by one for jobs of a kind.
    fn competes(&self, share: FlowKey, kind: FlowKey) -> bool {
        let places = self.contested(kind);
        places.into_iter().any(|place| self.flow.tags.contains_key(&(share, place)))
    }

    /// Reckons a share's tag anew where it stands for jobs of a kind.
    pub(super) fn refresh(&mut self, now: Timestamp, share: FlowKey, kind: FlowKey) {
        let tag = self.tag(now, share);
        for place in self.contested(kind) {
            if self.flow.tags.contains_key(&(share, place)) {
                self.flow.set_tag(place, share, Some(tag));
            }
        }
    }

    /// Where shares wait to be next for jobs of a kind.
    fn contested(&self, kind: FlowKey) -> Vec<Scope> {
        let is_limited = self.kind_limits.contains_key(&kind);
        let places = Scope::of_kind(kind).into_iter();
        places.filter(|place| place.is_free() || is_limited).collect()
    }

    /// The share that is next at a place, and its tag. Tags grow as jobs run: those before it are reckoned anew.
    pub(in crate::engine::model) fn head(
        &mut self,
        now: Timestamp,
        place: Scope,
    ) -> Option<(u64, FlowKey)> {
        for _ in 0..RECKONED_MAX {
            let (of, noted, share) =
                self.flow.fair.range((place, 0, FlowKey::NONE)..).next().copied()?;
            if of != place {
                return None;
            }
            let tag = self.tag(now, share);
            if tag == noted {
                return Some((tag, share));
            }
            self.flow.set_tag(place, share, Some(tag));
        }
        let (of, noted, share) =
            self.flow.fair.range((place, 0, FlowKey::NONE)..).next().copied()?;
        (of == place).then_some((noted, share))
    }
}
