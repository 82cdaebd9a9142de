#!/usr/bin/env python3
"""Proves from the records that a run did what a trace says. Shares no code with Windlass.

    windlass workflow import --format wfformat trace.json --time-factor 0.01 --submit --wait
    scripts/check_run.py trace.json RUN_ID --time-factor 0.01 [--url http://127.0.0.1:8080]

It reads the trace (WfFormat, schema 1.5) itself, and of the run everything on record: the run with its steps, the
list of its jobs, and every attempt of every job. It holds that

  * the run has succeeded;
  * every task of the trace has exactly one step, every step exactly one job, and there is no other step or job;
  * the steps need exactly what the trace says;
  * every job has exactly one attempt that succeeded, the last one; other attempts are listed by name, and are
    violations with --no-retries;
  * no attempt of a job, not even one that failed, started before every parent's successful attempt had finished;
  * with --time-factor: every job ran at least as long as its task, times the factor.

Times are compared as the API shows them, in whole milliseconds, without tolerance (of --time-factor: 2 ms).
Exit code 0 if all of it holds, 1 with every violation named, 2 if it could not be checked.
The API key, where one is needed (role viewer), comes from WINDLASS_API_KEY.
`--self-test` needs no server: it tampers with a good record in every way that is listed above.
"""
import argparse, copy, datetime, http.client, json, os, sys, urllib.parse

SHOWN_MAX = 50  # violations that are printed


class CannotCheck(Exception):
    pass


def load_trace(document):
    """{task: (its parents, its run time in seconds)} of a WfFormat document."""
    try:
        workflow = document["workflow"]
        tasks = {task["id"]: (set(task.get("parents") or []), 0.0) for task in workflow["specification"]["tasks"]}
        if len(tasks) != len(workflow["specification"]["tasks"]):
            raise CannotCheck("the trace names a task twice")
        for run in (workflow.get("execution") or {}).get("tasks", []):
            tasks[run["id"]] = (tasks[run["id"]][0], float(run.get("runtimeInSeconds") or 0))
    except (KeyError, TypeError) as error:
        raise CannotCheck(f"the trace is not WfFormat 1.5: {error!r}") from error
    missing = [parent for parents, _ in tasks.values() for parent in parents if parent not in tasks]
    if missing:
        raise CannotCheck(f"the trace names parents that are no tasks: {missing[:5]}")
    return tasks


class Api:
    """Reads over one connection that is kept."""

    def __init__(self, url):
        parts = urllib.parse.urlsplit(url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self.connection, self.base = kind(parts.hostname, parts.port, timeout=90), parts.path.rstrip("/")
        key = os.environ.get("WINDLASS_API_KEY")
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def get(self, path):
        try:
            self.connection.request("GET", self.base + path, headers=self.headers)
            answer = self.connection.getresponse()
            body = answer.read()
        except OSError as error:
            raise CannotCheck(f"GET {path}: {error}") from error
        if answer.status != 200:
            raise CannotCheck(f"GET {path}: {answer.status} {body.decode(errors='replace')[:500]}")
        return json.loads(body)

    def items(self, path):
        """Every page of a list."""
        items, cursor = [], None
        while True:
            page = self.get(path + (f"&cursor={urllib.parse.quote(cursor)}" if cursor else ""))
            items += page["items"]
            cursor = page["next_cursor"]
            if not cursor:
                return items


def fetch(api, run_id):
    """Everything on record of a run: {"run", "jobs": [job], "attempts": {job id: [attempt]}}."""
    run = api.get(f"/v1/workflows/{run_id}")
    jobs = api.items(f"/v1/jobs?workflow_id={run_id}&limit=500")
    return {"run": run, "jobs": jobs, "attempts": {job["id"]: api.get(f"/v1/jobs/{job['id']}/attempts")["items"]
                                                   for job in jobs}}


def ms(text):
    """An instant of the API, as whole milliseconds."""
    instant = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
    return round((instant - datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)) / datetime.timedelta(milliseconds=1))


def by_key(items, key):
    found = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found


def match_tasks(tasks, record, bad):
    """{task: its job}, as far as there is exactly one of each; the rest is violations."""
    jobs = {job["id"]: job for job in record["jobs"]}
    if len(jobs) != len(record["jobs"]):
        bad.append("the list of the run's jobs names a job twice")
    steps = by_key(record["run"]["steps"], lambda step: step["id"])
    for step, same in steps.items():
        if len(same) > 1:
            bad.append(f"the step {step!r} is there {len(same)} times")
    owned, of_task = {}, {}
    for step in record["run"]["steps"]:
        if step.get("job_ids"):
            bad.append(f"the step {step['id']!r} has {len(step['job_ids'])} jobs of a list")
        job = jobs.get(step["job_id"])
        if job is None:
            bad.append(f"the job {step['job_id']} of the step {step['id']!r} is not among the run's jobs")
            continue
        owned.setdefault(job["id"], []).append(step["id"])
        link = job.get("workflow") or {}
        if link.get("id") != record["run"]["id"] or link.get("step") != step["id"]:
            bad.append(f"the job {job['id']} says that it belongs to {link}, not to the step {step['id']!r}")
        task = (job.get("meta") or {}).get("task", step["id"])
        of_task.setdefault(task, []).append((step, job))
    for job, names in owned.items():
        if len(names) > 1:
            bad.append(f"the job {job} is that of the steps {names}")
    bad += [f"the job {job} belongs to no step" for job in jobs if job not in owned]
    bad += [f"the step {of_task[task][0][0]['id']!r} is of no task of the trace" for task in of_task if task not in tasks]
    bad += [f"the task {task!r} has no step with a job" for task in tasks if task not in of_task]
    bad += [f"the task {task!r} has {len(of_task[task])} steps" for task in tasks if len(of_task.get(task, [])) > 1]
    return {task: of_task[task][0] for task in tasks if len(of_task.get(task, [])) == 1}


def check_attempts(task, job, attempts, no_retries, bad, retries):
    """The successful attempt, as (start, end) in ms; None and a violation if there isn't exactly one."""
    good = [attempt for attempt in attempts if attempt["outcome"] == "succeeded"]
    if job["state"] != "succeeded":
        bad.append(f"the job of the task {task!r} is {job['state']}")
    if len(good) != 1:
        bad.append(f"the task {task!r} has {len(good)} successful attempts: {[a['outcome'] for a in attempts]}")
        return None
    if attempts[-1] is not good[0]:
        bad.append(f"the task {task!r} was tried again after it had succeeded")
    others = [attempt for attempt in attempts if attempt is not good[0]]
    retries += [f"{task}: {attempt['outcome']}" for attempt in others]
    if others and no_retries:
        bad.append(f"the task {task!r} has {len(attempts)} attempts: {[a['outcome'] for a in attempts]}")
    if not good[0]["started_at"] or not good[0]["finished_at"]:
        bad.append(f"the successful attempt of the task {task!r} has no start or no end")
        return None
    return ms(good[0]["started_at"]), ms(good[0]["finished_at"])


def check(tasks, record, factor=None, no_retries=False):
    """(violations, retries, {task: (start, end)})."""
    bad, retries, spans = [], [], {}
    run = record["run"]
    if run["state"] != "succeeded":
        bad.append(f"the run is {run['state']}: {run.get('error')}")
    matched = match_tasks(tasks, record, bad)
    step_of = {task: step["id"] for task, (step, _) in matched.items()}
    for task, (step, job) in matched.items():
        wanted = {step_of.get(parent, parent) for parent in tasks[task][0]}
        if sorted(step.get("needs") or []) != sorted(wanted):
            bad.append(f"the step {step['id']!r} needs {sorted(step.get('needs') or [])}, the trace says {sorted(wanted)}")
        if step["state"] != "succeeded":
            bad.append(f"the step {step['id']!r} is {step['state']}")
        span = check_attempts(task, job, record["attempts"].get(job["id"], []), no_retries, bad, retries)
        if span:
            spans[task] = span
            if factor is not None and span[1] - span[0] < tasks[task][1] * factor * 1000 - 2:
                bad.append(f"the task {task!r} took {span[1] - span[0]} ms, less than {tasks[task][1] * factor:.3f} s")
    for task, (_, job) in matched.items():
        for attempt in record["attempts"].get(job["id"], []):
            for parent in tasks[task][0]:
                if attempt["started_at"] and parent in spans and ms(attempt["started_at"]) < spans[parent][1]:
                    early = spans[parent][1] - ms(attempt["started_at"])
                    bad.append(f"the task {task!r} started {early} ms before its parent {parent!r} had finished")
    return bad, retries, spans


def critical_path(tasks, factor):
    """The heaviest chain of the trace, in seconds, and its tasks. No recursion: chains may be long."""
    children, left = {task: [] for task in tasks}, {task: len(parents) for task, (parents, _) in tasks.items()}
    for task, (parents, _) in tasks.items():
        for parent in parents:
            children[parent].append(task)
    best, through = {task: tasks[task][1] * factor for task in tasks}, {}
    ready = [task for task in tasks if not left[task]]
    for task in ready:
        for child in children[task]:
            length = best[task] + tasks[child][1] * factor
            if length > best[child] or child not in through:
                best[child], through[child] = max(length, best[child]), task
            left[child] -= 1
            if not left[child]:
                ready.append(child)
    if len(ready) < len(tasks):
        raise CannotCheck("the tasks of the trace need each other in a circle")
    last = max(best, key=best.get)
    path = [last]
    while path[-1] in through:
        path.append(through[path[-1]])
    return best[last], path[::-1]


def report(tasks, record, args):
    bad, retries, spans = check(tasks, record, args.time_factor, args.no_retries)
    factor = 1.0 if args.time_factor is None else args.time_factor
    length, path = critical_path(tasks, factor)
    print(f"run {record['run']['id']}: {len(tasks)} tasks, {sum(len(p) for p, _ in tasks.values())} dependencies, "
          f"{len(record['jobs'])} jobs, {sum(map(len, record['attempts'].values()))} attempts")
    if spans:
        makespan = (max(end for _, end in spans.values()) - min(start for start, _ in spans.values())) / 1000
        ratio = f", ratio {makespan / length:.3f}" if length else ""
        print(f"makespan {makespan:.3f} s (first start to last end), critical path {length:.3f} s over {len(path)} tasks"
              f"{' at factor ' + str(factor) if args.time_factor is not None else ''}{ratio}")
    for retry in retries[:SHOWN_MAX]:
        print(f"retried: {retry}")
    for violation in bad[:SHOWN_MAX]:
        print(f"VIOLATION: {violation}")
    if len(bad) > SHOWN_MAX:
        print(f"and {len(bad) - SHOWN_MAX} more")
    print("every task ran once, after its parents" if not bad else f"{len(bad)} violations")
    return 1 if bad else 0


def self_test():
    """A good record of a diamond, then one fault at a time; each must be found, by name."""
    ids = ["a", "b", "c", "d"]
    needs = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}
    trace = {"workflow": {"specification": {"tasks": [{"id": i, "parents": needs[i]} for i in ids]},
                          "execution": {"tasks": [{"id": i, "runtimeInSeconds": 1.5} for i in ids]}}}
    begin = {"a": 0, "b": 2, "c": 2, "d": 4}

    def attempt(second, outcome="succeeded"):
        return {"started_at": f"2026-01-01T00:00:0{second}.000Z", "finished_at": f"2026-01-01T00:00:0{second + 2}.000Z",
                "outcome": outcome}

    good = {"run": {"id": "run", "state": "succeeded", "error": None, "steps": [
                {"id": i, "state": "succeeded", "needs": needs[i], "job_id": f"job-{i}"} for i in ids]},
            "jobs": [{"id": f"job-{i}", "state": "succeeded", "meta": {"task": i},
                      "workflow": {"id": "run", "step": i}} for i in ids],
            "attempts": {f"job-{i}": [attempt(begin[i])] for i in ids}}
    tasks = load_trace(trace)
    assert check(tasks, good, 1.0, True)[0] == [], check(tasks, good, 1.0, True)
    assert critical_path(tasks, 2.0) == (9.0, ["a", "b", "d"])

    def late(r): r["attempts"]["job-d"][0]["started_at"] = "2026-01-01T00:00:03.999Z"
    def early_failure(r): r["attempts"]["job-b"].insert(0, attempt(1, "failed"))
    def no_attempt(r): r["attempts"]["job-b"] = []
    def failed(r): r["attempts"]["job-b"][0]["outcome"] = "failed"
    def twice(r): r["attempts"]["job-b"].append(attempt(5))
    def after(r): r["attempts"]["job-d"].append(attempt(7, "failed"))
    def retried(r): r["attempts"]["job-a"].insert(0, attempt(0, "failed"))
    def short(r): r["attempts"]["job-d"][0]["finished_at"] = "2026-01-01T00:00:05.400Z"
    def unfinished(r): r["attempts"]["job-d"][0]["finished_at"] = None
    def no_step(r): r["run"]["steps"].pop(1)
    def extra_step(r):
        r["run"]["steps"].append({"id": "e", "state": "succeeded", "needs": [], "job_id": "job-e"})
        r["jobs"].append({"id": "job-e", "state": "succeeded", "meta": None, "workflow": {"id": "run", "step": "e"}})
    def same_step(r): r["run"]["steps"].append(copy.deepcopy(r["run"]["steps"][0]))
    def shared_job(r): r["run"]["steps"][1]["job_id"] = "job-a"
    def extra_job(r): r["jobs"].append(dict(r["jobs"][0], id="job-x"))
    def lost_job(r): r["jobs"].pop(2)
    def other_run(r): r["jobs"][0]["workflow"]["id"] = "another"
    def same_task(r): r["jobs"][1]["meta"]["task"] = "a"
    def other_needs(r): r["run"]["steps"][3]["needs"] = ["b"]
    def job_dead(r): r["jobs"][3]["state"] = "dead"
    def step_skipped(r): r["run"]["steps"][3]["state"] = "skipped"
    def run_failed(r): r["run"]["state"] = "failed"
    def job_list(r): r["run"]["steps"][0]["job_ids"] = ["job-a", "job-x"]

    tampered = [(late, "started 1 ms before its parent"), (early_failure, "started 1000 ms before its parent"),
                (no_attempt, "has 0 successful"), (failed, "has 0 successful"), (twice, "has 2 successful"),
                (after, "again after it had succeeded"), (retried, "has 2 attempts"), (short, "took 1400 ms"),
                (unfinished, "no start or no end"), (no_step, "the task 'b' has no step"),
                (extra_step, "'e' is of no task"), (same_step, "is there 2 times"), (shared_job, "is that of the steps"),
                (extra_job, "belongs to no step"), (lost_job, "not among the run's jobs"),
                (other_run, "says that it belongs to"), (same_task, "the task 'a' has 2 steps"),
                (other_needs, "the trace says ['b', 'c']"), (job_dead, "is dead"), (step_skipped, "is skipped"),
                (run_failed, "the run is failed"), (job_list, "jobs of a list")]
    for tamper, wanted in tampered:
        record = copy.deepcopy(good)
        tamper(record)
        found = check(tasks, record, 1.0, True)[0]
        assert any(wanted in violation for violation in found), f"{tamper.__name__}: {found}"
    # A retry that comes in time is no violation unless it is asked for.
    record = copy.deepcopy(good)
    retried(record)
    found, retries, _ = check(tasks, record, 1.0)
    assert (found, retries) == ([], ["a: failed"]), (found, retries)
    for broken in [{}, {"workflow": {"specification": {"tasks": [{"id": "a", "parents": ["b"]}]}}}]:
        try:
            load_trace(broken)
        except CannotCheck:
            continue
        raise AssertionError(f"{broken} was taken for a trace")
    print(f"self-test: the good record passes, {len(tampered)} ways of tampering are found")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", help="a WfFormat file, schema 1.5")
    parser.add_argument("run", nargs="?", help="the id of the run")
    parser.add_argument("--url", default=os.environ.get("WINDLASS_URL", "http://127.0.0.1:8080"))
    parser.add_argument("--time-factor", type=float, help="that the trace was imported with")
    parser.add_argument("--no-retries", action="store_true", help="more than one attempt of a job is a violation")
    parser.add_argument("--self-test", action="store_true", help="check that faults are found; needs no server")
    args = parser.parse_args()
    if args.self_test:
        return self_test()
    if not args.run:
        parser.error("a trace and the id of a run are needed")
    try:
        with open(args.trace, encoding="utf-8") as file:
            tasks = load_trace(json.load(file))
        return report(tasks, fetch(Api(args.url), args.run), args)
    except (CannotCheck, OSError, ValueError) as error:
        print(f"cannot check: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
