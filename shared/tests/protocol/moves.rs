//! The steps that lead out of a state, each with its words and with what it breaks.

use crate::checks::Broken;
use crate::rules::{Rules, Scope};
use crate::state::State;

/// One line of a story.
#[derive(Clone, Copy)]
pub struct Line {
    pub text: &'static str,
    /// The lease that it is about; 0 is none.
    pub lease: u8,
}

pub struct Move {
    pub line: Line,
    pub to: State,
    pub broken: Broken,
}

/// Collects the steps out of one state.
pub struct Moves<'a> {
    pub rules: Rules,
    pub scope: &'a Scope,
    pub found: Vec<Move>,
}

impl Moves<'_> {
    /// A step that breaks nothing by itself.
    pub fn step(&mut self, text: &'static str, to: State) {
        self.add(Line { text, lease: 0 }, to, Broken::default());
    }

    pub fn add(&mut self, line: Line, to: State, broken: Broken) {
        self.found.push(Move { line, to, broken });
    }
}

/// Fills `moves` with every step out of `s`.
pub fn all(s: &State, moves: &mut Moves<'_>) {
    moves.found.clear();
    crate::delivery::steps(s, moves);
    crate::workers::steps(s, moves);
    crate::leader::steps(s, moves);
    crate::world::steps(s, moves);
}
