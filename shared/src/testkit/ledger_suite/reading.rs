//! Lists, pages, and the jobs that the sweep asks for.

use std::time::Duration;

use super::scene::{Scene, at, changed, error};
use crate::engine::Ended;
use crate::engine::flow::Group;
use crate::ledger::{Groups, JobFilter, LedgerError, Record, Unfinished};
use crate::model::id::{JobId, WorkflowId};
use crate::model::job::{Job, JobSpec, JobState, NewJob};
use crate::model::time::Timestamp;

super::cases![
    a_list_is_newest_first,
    pages_are_complete_and_do_not_overlap,
    pages_are_stable_while_jobs_come_in,
    an_empty_list_ends,
    a_list_filters_by_each_field,
    filters_are_all_required,
    text_is_found_in_kind_tags_and_error,
    text_means_itself,
    a_list_filters_by_time_of_creation,
    jobs_are_found_by_id_in_any_namespace,
    terminal_jobs_are_told_apart,
    unfinished_jobs_are_those_due_and_unchanged,
    unfinished_jobs_come_in_pages_by_id,
    unfinished_jobs_are_found_by_group,
    waiting_jobs_are_counted_up_to_a_bound,
    rows_of_a_newer_build_hide_no_others,
    what_cannot_be_read_is_on_record_all_the_same,
];

/// Follows the pages to the end.
async fn list(scene: &Scene, filter: &JobFilter, limit: u32) -> Vec<Job> {
    let (mut jobs, mut before) = (Vec::new(), None);
    for _ in 0..1_000 {
        let page = scene.ledger.list(&scene.namespace, filter, before, limit).await.expect("list");
        assert!(page.jobs.len() <= limit as usize);
        jobs.extend(page.jobs);
        match page.next {
            Some(next) => {
                assert!(before.is_none_or(|b| next < b), "pages move on");
                before = Some(next);
            }
            None => return jobs,
        }
    }
    panic!("the list does not end");
}

async fn listed(scene: &Scene, filter: JobFilter) -> Vec<JobId> {
    list(scene, &filter, 50).await.into_iter().map(|j| j.id).collect()
}

fn text(text: &str) -> JobFilter {
    JobFilter { text: Some(text.into()), ..JobFilter::default() }
}

async fn accept_all(scene: &Scene, jobs: Vec<NewJob>) -> Vec<JobId> {
    scene.submit(jobs).await.into_iter().map(|r| super::scene::new(r).id).collect()
}

async fn a_list_is_newest_first(scene: &Scene) {
    let mut ids = accept_all(scene, scene.new_jobs(5)).await;
    ids.reverse();
    let jobs = list(scene, &JobFilter::default(), 50).await;
    assert_eq!(jobs.iter().map(|j| j.id).collect::<Vec<_>>(), ids);
    assert_eq!(jobs[0], scene.get(ids[0]).await);
}

async fn pages_are_complete_and_do_not_overlap(scene: &Scene) {
    let mut ids = accept_all(scene, scene.new_jobs(23)).await;
    ids.reverse();
    for limit in [1, 5, 23, 24, 500] {
        let jobs = list(scene, &JobFilter::default(), limit).await;
        assert_eq!(jobs.iter().map(|j| j.id).collect::<Vec<_>>(), ids, "limit {limit}");
    }
}

async fn pages_are_stable_while_jobs_come_in(scene: &Scene) {
    let mut ids = accept_all(scene, scene.new_jobs(10)).await;
    ids.reverse();
    let filter = JobFilter::default();
    let first = scene.ledger.list(&scene.namespace, &filter, None, 4).await.unwrap();
    accept_all(scene, scene.new_jobs(6)).await;
    let rest = scene.ledger.list(&scene.namespace, &filter, first.next, 50).await.unwrap();
    let seen: Vec<_> = first.jobs.iter().chain(&rest.jobs).map(|j| j.id).collect();
    assert_eq!(seen, ids);
}

async fn an_empty_list_ends(scene: &Scene) {
    assert_eq!(list(scene, &JobFilter::default(), 10).await, []);
    assert_eq!(list(scene, &text("nothing"), 10).await, []);
}

async fn a_list_filters_by_each_field(scene: &Scene) {
    scene.accept(scene.new_job()).await;
    let kind =
        scene.accept(NewJob { kind: "other.kind".parse().unwrap(), ..scene.new_job() }).await;
    let queue = scene.accept(NewJob { queue: "other".parse().unwrap(), ..scene.new_job() }).await;
    let tags = vec!["a".into(), "b".into()];
    let tagged = scene.accept(NewJob { tags, ..scene.new_job() }).await;
    scene.accept(NewJob { tags: vec!["a".into()], ..scene.new_job() }).await;
    let dead = scene.job_in(JobState::Dead).await;
    let running = scene.job_in(JobState::Running).await;

    let by = JobFilter { kind: Some(kind.kind), ..JobFilter::default() };
    assert_eq!(listed(scene, by).await, [kind.id]);
    let by = JobFilter { queue: Some(queue.queue), ..JobFilter::default() };
    assert_eq!(listed(scene, by).await, [queue.id]);
    let by = JobFilter { tags: vec!["b".into(), "a".into()], ..JobFilter::default() };
    assert_eq!(listed(scene, by).await, [tagged.id]);
    let by = JobFilter { states: vec![JobState::Running, JobState::Dead], ..JobFilter::default() };
    assert_eq!(listed(scene, by).await, [running.id, dead.id]);
    let by = JobFilter { states: vec![JobState::Running], ..JobFilter::default() };
    assert_eq!(listed(scene, by).await, [running.id]);
    let run = WorkflowId::from_uuid(JobId::generate().uuid());
    let by = JobFilter { workflow_id: Some(run), ..JobFilter::default() };
    assert_eq!(listed(scene, by).await, []);
}

async fn filters_are_all_required(scene: &Scene) {
    let other = NewJob { queue: "other".parse().unwrap(), ..scene.new_job() };
    let tagged = NewJob { tags: vec!["a".into()], ..other.clone() };
    let tagged = scene.accept(NewJob { id: JobId::generate(), ..tagged }).await;
    scene.accept(NewJob { tags: vec!["a".into()], ..scene.new_job() }).await;
    scene.accept(other).await;
    let both = JobFilter {
        queue: Some(tagged.queue),
        tags: vec!["a".into()],
        states: vec![JobState::Ready],
        ..JobFilter::default()
    };
    assert_eq!(listed(scene, both.clone()).await, [tagged.id]);
    let none = JobFilter { states: vec![JobState::Dead], ..both };
    assert_eq!(listed(scene, none).await, []);
}

async fn text_is_found_in_kind_tags_and_error(scene: &Scene) {
    let kind =
        scene.accept(NewJob { kind: "mail.SendNeedle".parse().unwrap(), ..scene.new_job() }).await;
    let tag = scene
        .accept(NewJob { tags: vec!["x".into(), "a NEEDLE b".into()], ..scene.new_job() })
        .await;
    let failed = scene.accept(scene.new_job()).await;
    let record = Record {
        error: Some(error("boom", "stuck in a haystack: needle")),
        ..scene.record(failed.id, 1, Ended::Dead)
    };
    scene.records(vec![record]).await;
    let coded = scene.accept(scene.new_job()).await;
    let record = Record {
        error: Some(error("needle_code", "no")),
        ..scene.record(coded.id, 1, Ended::Dead)
    };
    scene.records(vec![record]).await;
    scene.accept(scene.new_job()).await;
    assert_eq!(listed(scene, text("nEEdle")).await, [coded.id, failed.id, tag.id, kind.id]);
}

async fn text_means_itself(scene: &Scene) {
    scene.accept(NewJob { tags: vec!["plain".into(), "100x".into()], ..scene.new_job() }).await;
    for odd in ["100%", "a_b", "back\\slash", "it's", "\"q\""] {
        let job = scene.accept(NewJob { tags: vec![odd.into()], ..scene.new_job() }).await;
        assert_eq!(listed(scene, text(odd)).await, [job.id], "{odd}");
    }
    assert_eq!(listed(scene, text("a\0b")).await, []);
}

async fn a_list_filters_by_time_of_creation(scene: &Scene) {
    let mut jobs = Vec::new();
    for _ in 0..3 {
        jobs.push(scene.accept(scene.new_job()).await);
        // So that no two are of the same microsecond.
        let now = scene.ledger.now().await.unwrap();
        while scene.ledger.now().await.unwrap() == now {}
    }
    let between = |after: Option<Timestamp>, before: Option<Timestamp>| JobFilter {
        created_after: after,
        created_before: before,
        ..JobFilter::default()
    };
    let (middle, last) = (jobs[1].created_at, jobs[2].created_at);
    assert_eq!(listed(scene, between(Some(middle), None)).await, [jobs[2].id, jobs[1].id]);
    assert_eq!(listed(scene, between(None, Some(middle))).await, [jobs[0].id]);
    assert_eq!(listed(scene, between(Some(middle), Some(last))).await, [jobs[1].id]);
    assert_eq!(listed(scene, between(Some(last), Some(middle))).await, []);
}

async fn jobs_are_found_by_id_in_any_namespace(scene: &Scene) {
    let other = scene.elsewhere();
    let (here, there) = (scene.accept(scene.new_job()).await, other.accept(other.new_job()).await);
    let mut found = scene.ledger.jobs(&[there.id, JobId::generate(), here.id]).await.unwrap();
    found.sort_by_key(|j| j.id);
    assert_eq!(found, [here, there]);
    assert_eq!(scene.ledger.jobs(&[]).await.unwrap(), []);
}

async fn terminal_jobs_are_told_apart(scene: &Scene) {
    let (mut ids, mut terminal) = (vec![JobId::generate()], Vec::new());
    for state in super::scene::reachable_states() {
        let id = scene.job_in(state).await.id;
        ids.push(id);
        if state.is_terminal() {
            terminal.push(id);
        }
    }
    let mut found = scene.ledger.terminal_among(&ids).await.unwrap();
    found.sort();
    assert_eq!(found, terminal);
    assert_eq!(scene.ledger.terminal_among(&[]).await.unwrap(), []);
}

async fn unfinished_jobs_are_those_due_and_unchanged(scene: &Scene) {
    let mut due = Vec::new();
    for state in super::scene::reachable_states() {
        let job = scene.job_in(state).await;
        if matches!(state, JobState::Ready | JobState::Running) {
            due.push(job.id);
        }
    }
    scene.accept(NewJob { queue: "other".parse().unwrap(), ..scene.new_job() }).await;
    let now = scene.ledger.now().await.unwrap().plus(Duration::from_secs(1));
    let hours = now.plus(Duration::from_secs(7_200));
    let call = |due_before, changed_before| {
        let times = (due_before, changed_before);
        scene.ledger.unfinished(Unfinished::new(&scene.namespace, &scene.queue, times, 100))
    };
    let found = call(now, now).await.unwrap();
    assert_eq!(found.jobs.iter().map(|j| j.id).collect::<Vec<_>>(), due);
    assert_eq!((&found.jobs[0], found.next), (&scene.get(due[0]).await, None));
    // Scheduled and retrying ones are due within the hour.
    assert_eq!(call(hours, now).await.unwrap().jobs.len(), due.len() + 2);
    assert_eq!(call(hours, at(0)).await.unwrap().jobs, []);
    assert_eq!(call(at(0), now).await.unwrap().jobs, []);
}

async fn unfinished_jobs_come_in_pages_by_id(scene: &Scene) {
    let ids = accept_all(scene, scene.new_jobs(10)).await;
    let now = scene.ledger.now().await.unwrap().plus(Duration::from_secs(1));
    assert_eq!(all_unfinished(scene, now, 3).await, ids);
    // A full last page is followed by an empty one, and that is the end.
    assert_eq!(all_unfinished(scene, now, 5).await, ids);
    assert_eq!(all_unfinished(scene, now, 100).await, ids);
}

/// Those without keys are a group; who has gone is of none.
async fn unfinished_jobs_are_found_by_group(scene: &Scene) {
    let of = |key: Option<&str>| {
        let spec = JobSpec { fairness_key: key.map(Into::into), ..JobSpec::default() };
        NewJob { spec, ..scene.new_job() }
    };
    let keys = [None, Some("a"), Some("b"), Some("a"), None, Some("a")];
    let jobs: Vec<NewJob> = keys.iter().map(|key| of(*key)).collect();
    let flow = |job: &NewJob| job.spec.flow(&job.kind);
    let [none, a, b] = [0, 1, 2].map(|n| Group::of(flow(&jobs[n]).as_ref()));
    let ids = accept_all(scene, jobs).await;
    let now = scene.ledger.now().await.unwrap().plus(Duration::from_secs(1));
    let at = |places: &[usize]| places.iter().map(|n| ids[*n]).collect::<Vec<_>>();
    assert_eq!(none, Group::UNKEYED);
    assert_eq!(of_groups(scene, now, Groups::Only(none)).await, at(&[0, 4]));
    assert_eq!(of_groups(scene, now, Groups::Only(a)).await, at(&[1, 3, 5]));
    assert_eq!(of_groups(scene, now, Groups::Only(b)).await, at(&[2]));
    assert_eq!(of_groups(scene, now, Groups::AllBut(&[a])).await, at(&[0, 2, 4]));
    assert_eq!(of_groups(scene, now, Groups::AllBut(&[none, b])).await, at(&[1, 3, 5]));
    assert_eq!(of_groups(scene, now, Groups::AllBut(&[none, a, b])).await, []);
    changed(scene.ledger.cancel(&scene.namespace, ids[3], None, false, "r").await.unwrap());
    assert_eq!(of_groups(scene, now, Groups::Only(a)).await, at(&[1, 5]));
}

/// The unfinished jobs of these groups, in pages of two that look at three.
async fn of_groups(scene: &Scene, now: Timestamp, groups: Groups<'_>) -> Vec<JobId> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let wanted = Unfinished::new(&scene.namespace, &scene.queue, (now, now), 2);
        let wanted = Unfinished { after, groups, window: 3, ..wanted };
        let page = scene.ledger.unfinished(wanted).await.unwrap();
        found.extend(page.jobs.iter().map(|job| job.id));
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

async fn waiting_jobs_are_counted_up_to_a_bound(scene: &Scene) {
    let mut waiting = 0;
    for state in super::scene::reachable_states() {
        scene.job_in(state).await;
        waiting += u64::from(!state.is_terminal() && state != JobState::Blocked);
    }
    scene.accept(NewJob { queue: "other".parse().unwrap(), ..scene.new_job() }).await;
    let count = |at_most| scene.ledger.waiting(&scene.namespace, &scene.queue, at_most);
    assert!(waiting > 2);
    assert_eq!(count(100).await.unwrap(), waiting);
    assert_eq!(count(2).await.unwrap(), 2);
    assert_eq!(count(0).await.unwrap(), 0);
    let elsewhere = "elsewhere".parse().unwrap();
    assert_eq!(scene.ledger.waiting(&scene.namespace, &elsewhere, 100).await.unwrap(), 0);
}

/// Page after page, as the pages say.
async fn all_unfinished(scene: &Scene, now: Timestamp, limit: u32) -> Vec<JobId> {
    let (mut seen, mut after) = (Vec::new(), None);
    for _ in 0..100 {
        let wanted = Unfinished::new(&scene.namespace, &scene.queue, (now, now), limit);
        let page = scene.ledger.unfinished(Unfinished { after, ..wanted }).await.unwrap();
        seen.extend(page.jobs.into_iter().map(|j| j.id));
        match page.next {
            Some(next) => after = Some(next),
            None => return seen,
        }
    }
    panic!("the pages don't end");
}

/// Rows as a newer build may write them: rules with a field, and a state, that this one does not know.
const STRANGE: [&str; 2] = [r#"spec = '{"max_attempts":"many","new":1}'"#, "state = 7"];

/// Goal: rows that cannot be read hide none of their neighbours, wherever they are in a page, and cut no walk
/// short, even where a page has nothing else.
async fn rows_of_a_newer_build_hide_no_others(scene: &Scene) {
    let ids = accept_all(scene, scene.new_jobs(12)).await;
    // The first page of three whole, and one in the middle of others.
    let strange = [0, 1, 2, 4, 11];
    for (n, place) in strange.into_iter().enumerate() {
        scene.ledger.tamper_job(ids[place], STRANGE[n % 2]).await.unwrap();
    }
    let left: Vec<JobId> = (0..12).filter(|n| !strange.contains(n)).map(|n| ids[n]).collect();
    let now = scene.ledger.now().await.unwrap().plus(Duration::from_secs(1));
    assert_eq!(all_unfinished(scene, now, 3).await, left);

    let (mut listed, mut before) = (Vec::new(), None);
    for _ in 0..100 {
        let filter = JobFilter::default();
        let page = scene.ledger.list(&scene.namespace, &filter, before, 3).await.unwrap();
        listed.extend(page.jobs.into_iter().map(|j| j.id));
        before = page.next;
        if before.is_none() {
            break;
        }
    }
    listed.reverse();
    assert_eq!((listed, before), (left.clone(), None));

    let mut found: Vec<_> =
        scene.ledger.jobs(&ids).await.unwrap().into_iter().map(|j| j.id).collect();
    found.sort_unstable();
    assert_eq!(found, left);
}

async fn what_cannot_be_read_is_on_record_all_the_same(scene: &Scene) {
    let (here, there) = (scene.accept(scene.new_job()).await, scene.elsewhere());
    let foreign = there.accept(there.new_job()).await;
    scene.ledger.tamper_job(here.id, STRANGE[0]).await.unwrap();
    let asked = [here.id, foreign.id, JobId::generate()];
    assert_eq!(scene.ledger.on_record(&scene.namespace, &asked).await.unwrap(), [here.id]);
    assert_eq!(scene.ledger.on_record(&scene.namespace, &[]).await.unwrap(), []);
    let alone = scene.ledger.job(&scene.namespace, here.id).await;
    assert!(matches!(alone, Err(LedgerError::Failed(_))), "{alone:?}");
}
