use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::model::name::{Namespace, QueueName};

fn collect(items_max: u32, bytes_max: u32) -> Collect {
    Collect { key: "k".into(), items_max, wait: Duration::from_secs(5), bytes_max }
}

fn item(payload: &'static str) -> NewJob {
    let payload = Value::Inline(Bytes::from_static(payload.as_bytes()));
    NewJob::new(Namespace::default(), QueueName::default(), "k".parse().unwrap(), payload)
}

fn dealt(open: Option<Series>, jobs: &[NewJob], rule: &Collect) -> Vec<Part> {
    deal(at(0), open, jobs.iter().enumerate().map(|(n, job)| (n, job, rule)))
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_millis(second * 1_000)
}

/// Places, the number of the first, whether it is over.
fn shape(parts: &[Part]) -> Vec<(Vec<usize>, u32, bool)> {
    parts.iter().map(|part| (part.members.clone(), part.first(), part.is_over)).collect()
}

#[test]
fn a_full_collection_is_over_and_the_next_begins() {
    let jobs: Vec<NewJob> = (0..5).map(|_| item("1")).collect();
    let parts = dealt(None, &jobs, &collect(2, 1_000));
    let expected = [(vec![0, 1], 1, true), (vec![2, 3], 1, true), (vec![4], 1, false)];
    assert_eq!(shape(&parts), expected);
    assert_eq!(parts[1].series.job, jobs[2].id, "its first item's job stands for it");
    let more = dealt(Some(parts[2].series.clone()), &jobs[..1], &collect(9, 1_000));
    assert_eq!(shape(&more), [(vec![0], 2, true)], "the bound is that of the first submission");
}

/// Goal: the size that is reckoned with is that of the payload, to the byte.
#[test]
fn a_collection_is_over_before_its_payload_is_too_large() {
    let jobs = [item("12345"), item("12345"), item("1")];
    let whole = r#"{"items":[12345,12345]}"#.len();
    let rule = collect(100, u32::try_from(whole).unwrap());
    let parts = dealt(None, &jobs, &rule);
    assert_eq!(shape(&parts), [(vec![0, 1], 1, true), (vec![2], 1, false)]);
    assert_eq!(parts[0].series.bytes, whole as u64);
    let rule = collect(100, u32::try_from(whole - 1).unwrap());
    assert_eq!(shape(&dealt(None, &jobs, &rule))[0], (vec![0], 1, true));
    assert_eq!(item_bytes_max(17), 5, "an item of 5 bytes fits into 17");
}

#[test]
fn a_collection_whose_time_has_come_takes_nothing_more() {
    let job = item("1");
    let mut open = begin(at(-5), &job, &Shaping::Collect(collect(9, 1_000))).unwrap();
    open.items = 3;
    let parts = dealt(Some(open.clone()), std::slice::from_ref(&job), &collect(9, 1_000));
    assert_eq!(shape(&parts), [(vec![], 4, true), (vec![0], 1, false)]);
    open.shuts_at = open.shuts_at.plus(Duration::from_micros(1));
    let parts = dealt(Some(open), std::slice::from_ref(&job), &collect(9, 1_000));
    assert_eq!(shape(&parts), [(vec![0], 4, false)]);
}

/// Goal: each submission puts the time off, none beyond the first one's bound; a later one may bring it closer only.
#[test]
fn a_debounced_series_ends_at_the_bound_of_its_first() {
    let rule = |delay, max_wait| Debounce {
        key: "k".into(),
        delay: Duration::from_secs(delay),
        max_wait: Duration::from_secs(max_wait),
    };
    let job = item("1");
    let first = begin(at(0), &job, &Shaping::Debounce(rule(5, 12))).unwrap();
    assert_eq!((first.shuts_at, first.latest_at), (at(5), at(12)));
    let second = move_on(&first, at(4), job.id, &rule(5, 12));
    assert_eq!(second.shuts_at, at(9));
    let third = move_on(&second, at(8), job.id, &rule(5, 100));
    assert_eq!((third.shuts_at, third.latest_at), (at(12), at(12)));
    let closer = move_on(&second, at(8), job.id, &rule(5, 10));
    assert_eq!((closer.shuts_at, closer.latest_at), (at(10), at(10)));
    assert_eq!(closer.opened_at, at(0));
}
