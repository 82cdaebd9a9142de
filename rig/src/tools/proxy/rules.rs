//! Which messages are hurt: chosen by their bytes, their number, and chance.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

/// Rules of one sort that a proxy holds at most.
pub const RULES_MAX: usize = 64;

/// A choice of messages. All conditions must hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Choice {
    /// The first 64 KiB of the message hold each of these, capitals aside: a command, the digest of a
    /// script, a part of a path. None chooses every message.
    #[serde(default)]
    pub words: Vec<String>,
    /// Only the n-th message with these words, from 1, over all connections since the rule was made.
    #[serde(default)]
    pub nth: Option<u64>,
    /// The share of such messages, from 0 to 1, drawn with the proxy's seed.
    #[serde(default = "all")]
    pub share: f64,
    /// So many in total at most.
    #[serde(default)]
    pub times: Option<u64>,
}

fn all() -> f64 {
    1.0
}

impl Choice {
    /// Every message that holds these words.
    pub fn every(words: &[&str]) -> Self {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Self { words, nth: None, share: 1.0, times: None }
    }

    /// The n-th message that holds these words, from 1.
    pub fn nth(words: &[&str], n: u64) -> Self {
        Self { nth: Some(n), ..Self::every(words) }
    }

    /// This share of the messages that hold these words.
    pub fn share(words: &[&str], share: f64) -> Self {
        Self { share, ..Self::every(words) }
    }

    /// The same, at most so many times.
    #[must_use]
    pub fn at_most(self, times: u64) -> Self {
        Self { times: Some(times), ..self }
    }
}

/// Names a rule of a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleId(pub u64);

/// What a rule has seen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RuleReport {
    /// Its name.
    pub id: RuleId,
    /// Messages that held its words.
    pub matched: u64,
    /// Messages that were hurt.
    pub chosen: u64,
}

struct Rule<T> {
    choice: Choice,
    what: T,
    report: RuleReport,
}

/// Rules of one sort, with what they do.
pub(super) struct Rules<T> {
    rules: Vec<Rule<T>>,
    next: u64,
    chance: StdRng,
}

impl<T: Clone> Rules<T> {
    pub(super) fn new(seed: u64) -> Self {
        Self { rules: Vec::new(), next: 1, chance: StdRng::seed_from_u64(seed) }
    }

    /// `None` when there are too many rules already.
    pub(super) fn add(&mut self, choice: Choice, what: T) -> Option<RuleId> {
        if self.rules.len() >= RULES_MAX {
            return None;
        }
        let id = RuleId(self.next);
        self.next += 1;
        self.rules.push(Rule { choice, what, report: RuleReport { id, matched: 0, chosen: 0 } });
        Some(id)
    }

    pub(super) fn clear(&mut self) {
        self.rules.clear();
    }

    pub(super) fn reports(&self) -> Vec<RuleReport> {
        self.rules.iter().map(|rule| rule.report.clone()).collect()
    }

    /// What is to be done to this message, by the first rule that chooses it.
    pub(super) fn choose(&mut self, message: &[u8]) -> Option<T> {
        for rule in &mut self.rules {
            if !rule.choice.words.iter().all(|word| holds(message, word.as_bytes())) {
                continue;
            }
            rule.report.matched += 1;
            let left = rule.choice.times.is_none_or(|times| rule.report.chosen < times);
            let is_chosen = left
                && match rule.choice.nth {
                    Some(n) => rule.report.matched == n,
                    None => self.chance.random::<f64>() < rule.choice.share,
                };
            if is_chosen {
                rule.report.chosen += 1;
                return Some(rule.what.clone());
            }
        }
        None
    }
}

fn holds(message: &[u8], word: &[u8]) -> bool {
    word.is_empty() || message.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(choice: Choice, seed: u64) -> Vec<usize> {
        let mut rules = Rules::new(seed);
        rules.add(choice, ()).expect("room");
        (0..1_000).filter(|_| rules.choose(b"*1\r\n$4\r\nping\r\n").is_some()).collect()
    }

    #[test]
    fn words_numbers_shares_and_bounds_choose() {
        assert_eq!(chosen(Choice::nth(&["PING"], 3), 1), [2]);
        assert_eq!(chosen(Choice::every(&["PING"]).at_most(2), 1), [0, 1]);
        assert_eq!(chosen(Choice::every(&["PING", "pong"]), 1), Vec::<usize>::new());
        let tenth = chosen(Choice::share(&[], 0.1), 1);
        assert!((60..140).contains(&tenth.len()), "{}", tenth.len());
    }

    #[test]
    fn the_seed_decides() {
        let half = || Choice::share(&[], 0.5);
        assert_eq!(chosen(half(), 7), chosen(half(), 7));
        assert_ne!(chosen(half(), 7), chosen(half(), 8));
    }
}
