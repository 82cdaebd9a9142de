use super::*;

/// Looks one after the other, with what the ledger would keep between them.
struct Story {
    rows: Vec<Alert>,
    now: Timestamp,
}

const CODE: &str = "queue_latency";

fn hold() -> Duration {
    entry_of(CODE).unwrap().hold
}

fn finding(subject: &str) -> Finding {
    let subject = (Some(Namespace::default()), subject.to_owned());
    Finding::new(subject, Severity::Warning, "late".into())
}

impl Story {
    fn new() -> Self {
        Self { rows: Vec::new(), now: Timestamp::from_millis(1_700_000_000_000) }
    }

    fn after(&mut self, wait: Duration) -> &mut Self {
        self.now = self.now.plus(wait);
        self
    }

    fn look(&mut self, judged: Judged) -> &mut Self {
        let decision = decide(&self.rows, vec![(CODE, judged)], self.now);
        self.rows.retain(|row| !decision.dropped.contains(&row.id));
        for alert in decision.write {
            match self.rows.iter_mut().find(|row| row.id == alert.id) {
                Some(row) => *row = alert,
                None => self.rows.push(alert),
            }
        }
        self
    }

    fn bad(&mut self, subjects: &[&str]) -> &mut Self {
        let held: Vec<Finding> = subjects.iter().map(|subject| finding(subject)).collect();
        self.look(Ok(Judgement::of_all(held)))
    }

    /// A look that has judged these alone, and found them well.
    fn only(&mut self, subjects: &[&str]) -> &mut Self {
        let subjects: HashSet<_> =
            subjects.iter().map(|s| (Some(Namespace::default()), (*s).to_owned())).collect();
        self.look(Ok(Judgement { held: Vec::new(), judged: Coverage::Only(subjects) }))
    }

    fn opened(subjects: &[&str]) -> Self {
        let mut story = Self::new();
        story.bad(subjects).after(hold()).bad(subjects);
        story
    }

    fn states(&self) -> Vec<(String, AlertState)> {
        let of_rule = self.rows.iter().filter(|row| row.key.code == CODE);
        let mut states: Vec<_> = of_rule.map(|row| (row.key.subject.clone(), row.state)).collect();
        states.sort_by(|a, b| a.0.cmp(&b.0));
        states
    }
}

fn is(subject: &str, state: AlertState) -> (String, AlertState) {
    (subject.to_owned(), state)
}

#[test]
fn an_alert_opens_after_its_rule_held_for_its_time() {
    let mut story = Story::new();
    let began = story.now;
    story.bad(&["a"]).after(hold() - Duration::from_micros(1)).bad(&["a"]);
    assert_eq!(story.states(), [is("a", AlertState::Pending)]);
    story.after(Duration::from_micros(1)).bad(&["a"]);
    assert_eq!(story.states(), [is("a", AlertState::Active)]);
    assert_eq!(story.rows[0].since, began, "since is the first look's");
}

#[test]
fn one_that_pends_and_is_well_again_leaves_nothing() {
    let mut story = Story::new();
    story.bad(&["a"]).bad(&[]);
    assert_eq!(story.rows, []);
}

#[test]
fn an_alert_ends_after_its_subject_was_well_for_a_while() {
    let mut story = Story::opened(&["a"]);
    story.bad(&[]).after(CLEAR_AFTER - Duration::from_micros(1)).bad(&[]);
    assert_eq!(story.states(), [is("a", AlertState::Active)]);
    story.after(Duration::from_micros(1)).bad(&[]);
    assert_eq!(story.states(), [is("a", AlertState::Ended)]);
    assert_eq!(story.rows[0].end_reason, Some(EndReason::Cleared));
}

/// Goal: a look that has not judged a subject does not end its alert, however often it is repeated.
#[test]
fn a_look_at_some_subjects_ends_no_others() {
    let mut story = Story::opened(&["a", "b"]);
    for _ in 0..10 {
        story.only(&["a"]).after(CLEAR_AFTER);
    }
    assert_eq!(story.states(), [is("a", AlertState::Ended), is("b", AlertState::Active)]);
}

#[test]
fn a_rule_that_fails_ends_nothing_and_is_told_after_a_while() {
    let mut story = Story::opened(&["a"]);
    let failed = || Err("the store does not answer".to_owned());
    story.look(failed()).after(CLEAR_AFTER * 2).look(failed());
    assert_eq!(story.states(), [is("a", AlertState::Active)]);
    let failing = |story: &Story| {
        story
            .rows
            .iter()
            .find(|r| r.key.code == RULE_FAILING)
            .map(|r| (r.key.subject.clone(), r.state))
    };
    assert_eq!(failing(&story), Some(is(CODE, AlertState::Pending)));
    story.after(Duration::from_secs(60)).look(failed());
    assert_eq!(failing(&story), Some(is(CODE, AlertState::Active)));
}

#[test]
fn one_that_is_unjudged_for_long_ends_as_unknown() {
    let mut story = Story::opened(&["a"]);
    story.after(UNJUDGED_MAX - Duration::from_micros(1)).only(&[]);
    assert_eq!(story.states(), [is("a", AlertState::Active)]);
    story.after(Duration::from_micros(1)).only(&[]);
    assert_eq!(story.states(), [is("a", AlertState::Ended)]);
    assert_eq!(story.rows[0].end_reason, Some(EndReason::Unknown));
}

#[test]
fn well_being_that_nobody_watched_does_not_count() {
    let mut story = Story::opened(&["a"]);
    story.bad(&[]).after(UNWATCHED_MAX).only(&[]).after(CLEAR_AFTER).bad(&[]);
    assert_eq!(story.states(), [is("a", AlertState::Active)]);
    story.after(CLEAR_AFTER).bad(&[]);
    assert_eq!(story.states(), [is("a", AlertState::Ended)]);
}

/// Goal: of more subjects than one look takes, each ends when it is well although looks in between pass it over.
#[test]
fn a_subject_whose_turn_comes_now_and_then_ends_as_well() {
    let mut story = Story::opened(&["a", "b"]);
    let step = CLEAR_AFTER / 4;
    for turn in [["a"], ["b"], ["c"], ["a"], ["b"], ["c"], ["a"]] {
        story.after(step).only(&turn);
    }
    assert_eq!(story.states(), [is("a", AlertState::Ended), is("b", AlertState::Active)]);
    story.after(step).only(&["b"]);
    assert_eq!(story.states(), [is("a", AlertState::Ended), is("b", AlertState::Ended)]);
}

#[test]
fn one_that_comes_back_must_stay_well_for_longer() {
    let mut story = Story::opened(&["a"]);
    story.bad(&[]).after(CLEAR_AFTER).bad(&[]);
    story.bad(&["a"]).after(hold()).bad(&["a"]);
    assert_eq!(story.rows.len(), 2);
    story.bad(&[]).after(CLEAR_AFTER).bad(&[]);
    assert_eq!(story.rows[1].state, AlertState::Active);
    story.after(CLEAR_AFTER).bad(&[]);
    assert_eq!(story.rows[1].state, AlertState::Ended);
}

#[test]
fn ten_thousand_subjects_are_one_alert() {
    let names: Vec<String> = (0..10_000).map(|n| format!("q{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut story = Story::opened(&names);
    assert_eq!(story.states(), [is("", AlertState::Active)]);
    assert_eq!(story.rows[0].of_namespaces[&Namespace::default()], 10_000);
    assert!(story.rows[0].message.chars().count() <= MESSAGE_CHARS_MAX);
    // Not back and forth at the bound.
    story.bad(&names[..SUBJECTS_MAX]);
    assert_eq!(story.states(), [is("", AlertState::Active)]);
    story.bad(&names[..1]).after(CLEAR_AFTER).bad(&names[..1]);
    assert_eq!(story.states(), [is("", AlertState::Ended), is("q0", AlertState::Active)]);
}

fn names(n: usize) -> Vec<String> {
    (0..n).map(|n| format!("q{n}")).collect()
}

/// Goal: there is no look at which a rule that holds has no active alert, and nothing of the single ones is lost.
#[test]
fn alerts_of_single_subjects_go_on_in_the_one_over_all() {
    let mut story = Story::opened(&["q0", "well"]);
    let since = story.rows[0].since;
    let worse = Finding { severity: Severity::Critical, ..finding("q0") };
    story.look(Ok(Judgement::of_all([worse, finding("well")])));
    let names = names(SUBJECTS_MAX + 1);
    story.after(Duration::from_secs(1));
    story.bad(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let all =
        [is("", AlertState::Active), is("q0", AlertState::Ended), is("well", AlertState::Active)];
    assert_eq!(story.states(), all, "one of a subject that is well ends in its own time");
    let row = |subject: &str| story.rows.iter().find(|row| row.key.subject == subject).unwrap();
    assert_eq!(row("q0").end_reason, Some(EndReason::Grouped));
    assert_eq!((row("").since, row("").severity), (since, Severity::Critical));
}

/// Goal: what pends for a while already does not begin anew.
#[test]
fn the_time_that_single_subjects_have_pended_counts() {
    let names = names(SUBJECTS_MAX + 1);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut story = Story::new();
    story.bad(&names[..1]).after(hold() - Duration::from_micros(1)).bad(&names);
    assert_eq!(story.states(), [is("", AlertState::Pending)]);
    story.after(Duration::from_micros(1)).bad(&names);
    assert_eq!(story.states(), [is("", AlertState::Active)]);
}

/// Goal: a rule does not have more alerts than its bound because each look sees a part of the subjects.
#[test]
fn subjects_that_other_looks_have_found_count() {
    let names = names(SUBJECTS_MAX + 1);
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let (first, second) = names.split_at(SUBJECTS_MAX / 2);
    let look = |story: &mut Story, subjects: &[&str]| {
        let held: Vec<Finding> = subjects.iter().map(|subject| finding(subject)).collect();
        let judged = held.iter().map(|finding| finding.subject.clone()).collect();
        story.look(Ok(Judgement { held, judged: Coverage::Only(judged) }));
    };
    let mut story = Story::opened(first);
    look(&mut story, second);
    assert_eq!(story.states()[0], is("", AlertState::Active));
    assert!(story.states()[1..].iter().all(|(_, state)| *state == AlertState::Ended));
    assert!(story.rows.last().unwrap().message.contains("at least 26 subjects"));
    look(&mut story, first);
    assert_eq!(story.states()[0], is("", AlertState::Active));
    assert_eq!(story.rows.len(), first.len() + 1);
}

#[test]
fn severity_rises_at_once_and_stays_to_the_end() {
    let mut story = Story::opened(&["a"]);
    let worse = Finding { severity: Severity::Critical, ..finding("a") };
    story.look(Ok(Judgement::of_all([worse]))).bad(&["a"]);
    assert_eq!(story.rows[0].severity, Severity::Critical);
}
