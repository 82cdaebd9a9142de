#!/usr/bin/env python3
"""A Windlass worker in plain Python: leases jobs of one kind over HTTP, runs them, settles them.

    python3 examples/remote_worker.py [--url http://127.0.0.1:8080] [--kind text.reverse] [--once]

The API key, where one is needed (role `worker`), comes from WINDLASS_API_KEY.
"""
import argparse, json, os, threading, urllib.request

def call(path, body):
    request = urllib.request.Request(args.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    if key := os.environ.get("WINDLASS_API_KEY"):
        request.add_header("Authorization", f"Bearer {key}")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)

def handle(job):
    """Your work goes here. It may run twice, so make it safe to repeat."""
    return {"reversed": job["payload"]["text"][::-1]}

def keep_leases(held, stop):
    """Extends what is held from a thread of its own, so that a long job keeps its lease."""
    while not stop.wait(args.lease / 3):
        items = [{"id": id, "token": token} for id, token in held.items()]
        if items:
            for result in call("/v1/leases/heartbeat", {"worker": args.name, "items": items})["results"]:
                if not result["ok"] or result.get("cancel"):
                    held.pop(result["id"], None)  # lost or cancelled: its settle will be refused

def main():
    held, stop = {}, threading.Event()
    threading.Thread(target=keep_leases, args=(held, stop), daemon=True).start()
    while True:
        leased = call("/v1/leases", {"worker": args.name, "queues": [args.queue], "kinds": [args.kind],
                                     "max": 4, "lease": args.lease, "wait": "20s"})["jobs"]
        held.update({job["id"]: job["lease"]["token"] for job in leased})
        for job in leased:
            item = {"id": job["id"], "token": job["lease"]["token"]}
            try:
                item |= {"outcome": "succeed", "output": handle(job)}
            except Exception as error:  # any failure is reported; the job's retry policy decides
                item |= {"outcome": "fail", "error": {"code": type(error).__name__.lower(),
                                                      "message": str(error), "retryable": True}}
            result = call("/v1/leases/settle", {"worker": args.name, "items": [item]})["results"][0]
            held.pop(job["id"], None)
            print(job["id"], item["outcome"] if result["ok"] else result["error"]["code"], flush=True)
        if args.once and leased:
            return stop.set()

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--url", default=os.environ.get("WINDLASS_URL", "http://127.0.0.1:8080"))
parser.add_argument("--name", default=f"python-{os.getpid()}")
parser.add_argument("--queue", default="default")
parser.add_argument("--kind", default="text.reverse")
parser.add_argument("--lease", type=int, default=15, help="seconds")
parser.add_argument("--once", action="store_true", help="stop after the first jobs")
args = parser.parse_args()
main()
