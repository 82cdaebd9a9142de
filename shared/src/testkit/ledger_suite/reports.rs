//! What workers report: log lines, progress, beats.

use std::time::Duration;

use futures::future::join_all;

use super::scene::{Scene, at, changed};
use crate::engine::Ended;
use crate::ledger::{JobLines, JobProgress, LogLine, WorkerBeat};
use crate::limits::LOG_LINES_MAX;
use crate::model::id::{Fence, JobId, WorkerId};
use crate::model::job::{JobState, Progress};
use crate::model::time::Timestamp;

super::cases![
    log_lines_are_numbered_and_read_back,
    log_lines_of_several_writers_are_all_kept,
    a_log_has_a_bound,
    an_unknown_job_has_no_log,
    lines_of_many_jobs_are_appended_at_once,
    progress_of_many_jobs_is_noted_at_once,
    progress_is_that_of_the_latest_lease,
    a_redriven_job_has_no_progress,
    a_beat_reads_back_with_ledger_time,
    a_worker_learns_that_it_is_to_drain,
    silent_workers_are_left_out,
];

fn line(n: u64) -> LogLine {
    LogLine {
        seq: 0,
        at: at(i64::try_from(n).unwrap()),
        attempt: 1,
        level: "info".into(),
        message: format!("line {n}"),
    }
}

async fn log(scene: &Scene, id: JobId, after: u64, limit: u32) -> Vec<LogLine> {
    scene.ledger.logs(&scene.namespace, id, after, limit).await.unwrap().expect("the job is there")
}

async fn log_lines_are_numbered_and_read_back(scene: &Scene) {
    let id = scene.accept(scene.new_job()).await.id;
    assert_eq!(log(scene, id, 0, 10).await, []);
    let append = |lines: Vec<LogLine>| async move {
        scene.ledger.append_logs(&scene.namespace, id, &lines).await.unwrap()
    };
    assert!(append(vec![line(1), line(2)]).await);
    assert!(append(vec![]).await);
    let odd =
        LogLine {
            level: "error".into(), message: "nul \0 and ünï".into(), attempt: 2, ..line(3)
        };
    assert!(append(vec![odd]).await);
    let lines = log(scene, id, 0, 10).await;
    assert_eq!(lines.iter().map(|l| l.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(lines[1], LogLine { seq: 2, ..line(2) });
    assert_eq!((lines[2].attempt, lines[2].level.as_str()), (2, "error"));
    assert!(lines[2].message.ends_with("ünï"));
    assert_eq!(log(scene, id, 1, 1).await, lines[1..2]);
    assert_eq!(log(scene, id, 3, 10).await, []);
}

async fn log_lines_of_several_writers_are_all_kept(scene: &Scene) {
    let id = scene.accept(scene.new_job()).await.id;
    join_all((0..10).map(|n| async move {
        let lines = [line(n), line(100 + n)];
        assert!(scene.ledger.append_logs(&scene.namespace, id, &lines).await.unwrap());
    }))
    .await;
    let lines = log(scene, id, 0, 100).await;
    assert_eq!(lines.iter().map(|l| l.seq).collect::<Vec<_>>(), (1..=20).collect::<Vec<_>>());
    // The lines of one call stay together.
    for pair in lines.chunks(2) {
        assert_eq!(pair[1].at, pair[0].at.plus(Duration::from_secs(100)));
    }
}

async fn a_log_has_a_bound(scene: &Scene) {
    let id = scene.accept(scene.new_job()).await.id;
    let lines: Vec<_> = (1..=LOG_LINES_MAX / 4 + 1).map(line).collect();
    for _ in 0..5 {
        assert!(scene.ledger.append_logs(&scene.namespace, id, &lines).await.unwrap());
    }
    let last = log(scene, id, LOG_LINES_MAX - 2, 100).await;
    assert_eq!(last.iter().map(|l| l.seq).collect::<Vec<_>>(), [LOG_LINES_MAX - 1, LOG_LINES_MAX]);
}

async fn an_unknown_job_has_no_log(scene: &Scene) {
    let id = JobId::generate();
    assert!(!scene.ledger.append_logs(&scene.namespace, id, &[line(1)]).await.unwrap());
    assert_eq!(scene.ledger.logs(&scene.namespace, id, 0, 10).await.unwrap(), None);
    let job = scene.accept(scene.new_job()).await;
    let other = scene.elsewhere();
    assert!(!other.ledger.append_logs(&other.namespace, job.id, &[line(1)]).await.unwrap());
    assert_eq!(log(scene, job.id, 0, 10).await, []);
}

async fn progress_is_that_of_the_latest_lease(scene: &Scene) {
    let id = scene.accept(scene.new_job()).await.id;
    let set = |namespace, fence, percent| async move {
        let progress = Progress { percent, message: Some(format!("at {percent}\0")) };
        scene.ledger.set_progress(namespace, id, Fence(fence), &progress).await.unwrap();
    };
    let percent = || async { scene.get(id).await.progress.map(|p| p.percent) };
    set(&scene.namespace, 5, 10.5).await;
    assert_eq!(percent().await, Some(10.5));
    set(&scene.namespace, 5, 20.0).await;
    assert_eq!(percent().await, Some(20.0));
    // Older than a reported one, then older than a recorded one.
    set(&scene.namespace, 4, 90.0).await;
    assert_eq!(percent().await, Some(20.0));
    scene.start(id, 8).await;
    set(&scene.namespace, 7, 90.0).await;
    assert_eq!(percent().await, Some(20.0));
    set(&scene.namespace, 8, 30.0).await;
    assert_eq!(percent().await, Some(30.0));
    set(&scene.elsewhere().namespace, 9, 99.0).await;
    assert_eq!(percent().await, Some(30.0));
    let listed = scene.ledger.list(&scene.namespace, &Default::default(), None, 5).await.unwrap();
    assert_eq!(listed.jobs[0].progress.as_ref().map(|p| p.percent), Some(30.0));
}

async fn a_redriven_job_has_no_progress(scene: &Scene) {
    let job = scene.job_in(JobState::Running).await;
    let progress = Progress { percent: 80.0, message: None };
    scene.ledger.set_progress(&scene.namespace, job.id, Fence(10), &progress).await.unwrap();
    scene.end(job.id, 10, Ended::Dead).await;
    assert_eq!(scene.get(job.id).await.progress, Some(progress));
    let job = changed(scene.ledger.redrive(&scene.namespace, job.id).await.unwrap());
    assert_eq!(job.progress, None);
    assert_eq!(scene.get(job.id).await.progress, None);
}

pub(super) fn beat(scene: &Scene) -> WorkerBeat {
    WorkerBeat {
        id: WorkerId::generate(),
        name: "w-1".into(),
        namespace: scene.namespace.clone(),
        host: "host".into(),
        version: "0.1.0".into(),
        queues: vec!["a".into(), "b".into()],
        kinds: Vec::new(),
        concurrency: 16,
        running: 3,
        draining: false,
        started_at: at(0),
        seen_at: Timestamp::default(),
    }
}

const HOUR: Duration = Duration::from_secs(3600);

async fn a_beat_reads_back_with_ledger_time(scene: &Scene) {
    let before = scene.ledger.now().await.unwrap();
    let mut sent = beat(scene);
    assert!(!scene.ledger.beat(&sent).await.unwrap());
    sent.running = 9;
    sent.kinds = vec!["k".into()];
    assert!(!scene.ledger.beat(&sent).await.unwrap());
    let seen = scene.ledger.workers(&scene.namespace, HOUR).await.unwrap();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].seen_at >= before);
    assert_eq!(seen[0], WorkerBeat { seen_at: seen[0].seen_at, ..sent });
}

async fn a_worker_learns_that_it_is_to_drain(scene: &Scene) {
    let sent = beat(scene);
    scene.ledger.beat(&sent).await.unwrap();
    assert!(scene.ledger.drain_worker(&scene.namespace, sent.id).await.unwrap());
    assert!(scene.ledger.drain_worker(&scene.namespace, sent.id).await.unwrap());
    assert!(scene.ledger.beat(&sent).await.unwrap());
    assert!(scene.ledger.workers(&scene.namespace, HOUR).await.unwrap()[0].draining);
    let other = scene.elsewhere();
    assert!(!other.ledger.drain_worker(&other.namespace, sent.id).await.unwrap());
    assert!(!scene.ledger.drain_worker(&scene.namespace, WorkerId::generate()).await.unwrap());
}

async fn silent_workers_are_left_out(scene: &Scene) {
    scene.ledger.beat(&beat(scene)).await.unwrap();
    assert_eq!(scene.ledger.workers(&scene.namespace, HOUR).await.unwrap().len(), 1);
    let seen = scene.ledger.now().await.unwrap();
    while scene.ledger.now().await.unwrap() <= seen {}
    assert_eq!(scene.ledger.workers(&scene.namespace, Duration::ZERO).await.unwrap(), []);
    let other = scene.elsewhere();
    assert_eq!(other.ledger.workers(&other.namespace, HOUR).await.unwrap(), []);
}

async fn lines_of_many_jobs_are_appended_at_once(scene: &Scene) {
    let (a, b) = (scene.accept(scene.new_job()).await.id, scene.accept(scene.new_job()).await.id);
    let other = scene.elsewhere();
    let foreign = other.accept(other.new_job()).await.id;
    let lines =
        |id, numbers: &[u64]| JobLines { id, lines: numbers.iter().copied().map(line).collect() };
    let append = |logs| scene.ledger.append_all_logs(&scene.namespace, logs);
    let unknown = JobId::generate();
    let logs = vec![lines(b, &[1, 2]), lines(unknown, &[3]), lines(a, &[4]), lines(foreign, &[5])];
    let mut found = append(logs).await.unwrap();
    found.sort_unstable();
    assert_eq!(found, [a, b]);
    append(vec![lines(a, &[6, 7]), lines(b, &[])]).await.unwrap();
    let read =
        |lines: Vec<LogLine>| lines.into_iter().map(|l| (l.seq, l.message)).collect::<Vec<_>>();
    let expected = |numbers: &[u64]| {
        (1..).zip(numbers).map(|(seq, n)| (seq, line(*n).message)).collect::<Vec<_>>()
    };
    assert_eq!(read(log(scene, a, 0, 10).await), expected(&[4, 6, 7]));
    assert_eq!(read(log(scene, b, 0, 10).await), expected(&[1, 2]));
    assert_eq!(log(&other, foreign, 0, 10).await, []);
    assert_eq!(append(Vec::new()).await.unwrap(), []);
}

async fn progress_of_many_jobs_is_noted_at_once(scene: &Scene) {
    let (a, b) = (scene.accept(scene.new_job()).await.id, scene.accept(scene.new_job()).await.id);
    let said = |id, fence, percent| JobProgress {
        id,
        fence: Fence(fence),
        progress: Progress { percent, message: Some("nul \0".into()) },
    };
    let all = vec![
        said(b, 2, 10.0),
        said(a, 1, 5.0),
        said(b, 2, 20.0),
        said(JobId::generate(), 1, 1.0),
        said(b, 1, 99.0),
    ];
    scene.ledger.set_all_progress(&scene.namespace, all).await.unwrap();
    let percent = |id| async move { scene.get(id).await.progress.map(|p| p.percent) };
    assert_eq!((percent(a).await, percent(b).await), (Some(5.0), Some(20.0)));
    scene.ledger.set_all_progress(&scene.namespace, Vec::new()).await.unwrap();
}
