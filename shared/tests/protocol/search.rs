//! Breadth-first search over all states, with the shortest story to what breaks a check.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};

use crate::checks::{Broken, Check};
use crate::engine;
use crate::moves::{self, Line, Moves};
use crate::rules::{Rules, Scope};
use crate::shard::{Door, Gate, Shard};
use crate::state::{Push, State};

/// More states than any search here has; one that grows past it is wrong, and ends.
const STATES_MAX: usize = 20_000_000;

/// Folds the small parts of a state, eight bytes at a time, into a fingerprint of 64 bits.
#[derive(Default)]
struct Fingerprint {
    sum: u64,
    word: u64,
    bytes: u32,
}

impl Fingerprint {
    fn mix(&mut self, word: u64) {
        let wide = u128::from(self.sum ^ word ^ 0x9e37_79b9_7f4a_7c15)
            * u128::from(0xd6e8_feb8_6659_fd93_u64.wrapping_add(self.sum.rotate_left(23)) | 1);
        self.sum = (wide as u64) ^ ((wide >> 64) as u64);
    }
}

impl Hasher for Fingerprint {
    fn finish(&self) -> u64 {
        let mut end = Self { ..*self };
        end.mix(self.word ^ u64::from(self.bytes) << 56);
        end.sum
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u8(*byte);
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.word = self.word << 8 | u64::from(value);
        self.bytes += 1;
        if self.bytes == 8 {
            self.mix(self.word);
            self.word = 0;
            self.bytes = 0;
        }
    }

    // Discriminants and lengths, all of them small.
    fn write_isize(&mut self, value: isize) {
        self.write_u8(value as u8);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u8(value as u8);
    }
}

/// The keys are fingerprints already.
#[derive(Default)]
struct Ready(u64);

impl Hasher for Ready {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("only fingerprints are keys");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// What a search has found.
pub struct Found {
    pub states: usize,
    pub steps: usize,
    /// How many steps, or states, break each check, and the shortest story to the first.
    pub broken: Vec<(Check, usize, String)>,
}

impl Found {
    pub fn breaks(&self, check: Check) -> Option<&str> {
        self.broken.iter().find(|(found, ..)| *found == check).map(|(.., story)| story.as_str())
    }
}

/// Which check ends the search at once.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Until {
    AllSeen,
    Breaks(Check),
}

struct Search {
    /// Fingerprint to index. Two states with one fingerprint would end the search with a panic, so it stays exact.
    known: HashMap<u64, u32, BuildHasherDefault<Ready>>,
    states: Vec<State>,
    /// The state before, and the step from there.
    from: Vec<(u32, Line)>,
    /// Every step as (before, after), for the way back.
    edges: Vec<(u32, u32)>,
    broken: Vec<(Check, usize, String)>,
}

/// Visits every state that the scope can reach under these rules.
pub fn search(scope: &Scope, rules: Rules, until: Until) -> Found {
    let mut search = Search {
        known: HashMap::default(),
        states: Vec::new(),
        from: Vec::new(),
        edges: Vec::new(),
        broken: Vec::new(),
    };
    search.reach(first(scope), 0, Line { text: "", lease: 0 });
    let mut moves = Moves { rules, scope, found: Vec::new() };
    let mut at = 0;
    while at < search.states.len() {
        assert!(search.states.len() < STATES_MAX, "{}: the search does not end", scope.name);
        let state = search.states[at];
        moves::all(&state, &mut moves);
        if search.follow(at, &moves, until) {
            return search.result();
        }
        at += 1;
    }
    search.find_stuck();
    search.result()
}

/// A job that was accepted a moment ago, its child blocked, the API about to push.
fn first(scope: &Scope) -> State {
    let generation = u8::from(!scope.fresh);
    let gate = if scope.fresh {
        Gate::default()
    } else {
        Gate { door: Door::Open, generation, process: 0 }
    };
    let mut state = State {
        live: Shard { gate, ..Shard::default() },
        clock: 1,
        starts_left: 1,
        left: scope.left,
        api: Push { pending: true, generation, ..Push::default() },
        ..State::default()
    };
    state.ledger.generation = generation;
    if scope.second_lease {
        begin_with_second_lease(&mut state);
    }
    state
}

fn begin_with_second_lease(state: &mut State) {
    let mut broken = Broken::default();
    let api = std::mem::take(&mut state.api);
    engine::push(state, api, Rules::FULL, &mut broken);
    engine::claim(state, 0);
    engine::reap(state);
    engine::claim(state, 1);
    state.starts_left = 0;
    assert!(broken.is_none(), "the beginning keeps the rules");
}

impl Search {
    fn reach(&mut self, state: State, before: u32, line: Line) -> u32 {
        let next = self.states.len() as u32;
        let mut fingerprint = Fingerprint::default();
        state.hash(&mut fingerprint);
        let index = *self.known.entry(fingerprint.finish()).or_insert(next);
        if index == next {
            self.states.push(state);
            self.from.push((before, line));
        } else {
            assert!(self.states[index as usize] == state, "two states with one fingerprint");
        }
        index
    }

    /// Takes every step out of a state; whether the search is over.
    fn follow(&mut self, at: usize, moves: &Moves<'_>, until: Until) -> bool {
        for step in &moves.found {
            let index = self.reach(step.to, at as u32, step.line);
            self.edges.push((at as u32, index));
            if step.broken.is_none() {
                continue;
            }
            for check in Check::ALL.into_iter().filter(|check| step.broken.has(*check)) {
                self.note(check, at as u32, Some(step.line));
                if until == Until::Breaks(check) {
                    return true;
                }
            }
        }
        false
    }

    fn note(&mut self, check: Check, at: u32, last: Option<Line>) {
        if let Some((_, count, _)) = self.broken.iter_mut().find(|(found, ..)| *found == check) {
            *count += 1;
            return;
        }
        let story = self.story(at, last);
        self.broken.push((check, 1, story));
    }

    fn story(&self, mut at: u32, last: Option<Line>) -> String {
        let mut lines: Vec<Line> = last.into_iter().collect();
        while at != 0 {
            let (before, line) = self.from[at as usize];
            lines.push(line);
            at = before;
        }
        let mut story = String::new();
        for (number, line) in lines.iter().rev().enumerate() {
            story.push_str(&format!("  {:>2}. {}", number + 1, line.text));
            if line.lease > 0 {
                story.push_str(&format!(" (lease {})", line.lease));
            }
            story.push('\n');
        }
        story
    }

    /// States from which no way leads to the end of the job with its child released.
    fn find_stuck(&mut self) {
        let count = self.states.len();
        let mut starts = vec![0_u32; count + 1];
        for (_, after) in &self.edges {
            starts[*after as usize + 1] += 1;
        }
        for index in 0..count {
            starts[index + 1] += starts[index];
        }
        let mut fill = starts.clone();
        let mut before = vec![0_u32; self.edges.len()];
        for (from, after) in &self.edges {
            let slot = &mut fill[*after as usize];
            before[*slot as usize] = *from;
            *slot += 1;
        }
        let mut good = vec![false; count];
        let ended = |state: &State| state.ledger.succeeded && state.ledger.child > 0;
        let mut todo: Vec<u32> =
            (0..count as u32).filter(|at| ended(&self.states[*at as usize])).collect();
        while let Some(at) = todo.pop() {
            if std::mem::replace(&mut good[at as usize], true) {
                continue;
            }
            let range = starts[at as usize] as usize..starts[at as usize + 1] as usize;
            todo.extend(before[range].iter().filter(|from| !good[**from as usize]));
        }
        for at in (0..count).filter(|at| !good[*at]) {
            self.note(Check::Stuck, at as u32, None);
        }
    }

    fn result(self) -> Found {
        Found { states: self.states.len(), steps: self.edges.len(), broken: self.broken }
    }
}
