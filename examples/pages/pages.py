#!/usr/bin/env python3
"""Fetches a list of pages, checks and transforms each, and collects the results.

Each page is one `http.request` job. Each fetched page becomes one `command.run` job that refuses a page
without a title and extracts facts from the rest. The pages come from a small server that this script
starts; it answers 503 twice for one page (retried) and 404 for another (dead at once).

    WINDLASS_COMMANDS__FILE=examples/pages/commands.toml windlass dev
    python3 examples/pages/pages.py [--url http://127.0.0.1:8080]

The API key, where one is needed (role `submitter`), comes from WINDLASS_API_KEY.
Exit code 0 when everything went as described above.
"""
import argparse, http.server, json, os, sys, threading, urllib.error, urllib.request

TITLES = ["Windlass", "Capstan", "Winch", "Halyard", "Bollard", "Fairlead", "Sheave", "Gypsy"]

class Site(http.server.BaseHTTPRequestHandler):
    """Pages about deck gear. /flaky needs three tries; /gone is not there."""
    tries, lock = 0, threading.Lock()

    def do_GET(self):
        name = self.path.strip("/")
        with Site.lock:
            Site.tries += name == "flaky"
            busy = name == "flaky" and Site.tries <= 2
        known = name in [title.lower() for title in TITLES] + ["flaky"]
        body = page(name.title()) if known and not busy else "not now\n"
        self.send_response(503 if busy else 200 if known else 404)
        self.send_header("Content-Type", "text/html")
        if busy:
            self.send_header("Retry-After", "1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_):
        pass

def page(title):
    links = "".join(f'<li><a href="/{other.lower()}">{other}</a></li>\n' for other in TITLES if other != title)
    text = f"<p>A {title.lower()} is one piece of deck gear among others.</p>\n" * len(title)
    return f"<html><head><title>{title}</title></head>\n<body>\n{text}<ul>\n{links}</ul>\n</body></html>\n"

def call(method, path, body=None):
    request = urllib.request.Request(args.url + path, method=method, headers={"Content-Type": "application/json"},
                                     data=None if body is None else json.dumps(body).encode())
    if key := os.environ.get("WINDLASS_API_KEY"):
        request.add_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=90) as answer:
            return json.load(answer) if answer.status != 204 else None
    except urllib.error.HTTPError as error:
        sys.exit(f"{method} {path}: {error.code} {error.read().decode()}")

def submit(jobs):
    results = call("POST", "/v1/jobs/batch", {"jobs": jobs})["results"]
    refused = [result["error"] for result in results if "error" in result]
    if refused:
        sys.exit(f"refused: {refused}")
    return [result["id"] for result in results]

def finished(id):
    for _ in range(4):
        if job := call("GET", f"/v1/jobs/{id}/wait?timeout=30s"):
            return job
    sys.exit(f"job {id} did not finish within two minutes; see {args.url}/v1/jobs/{id}/explain")

def main():
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{site.server_port}"

    names = [title.lower() for title in TITLES] + ["flaky", "gone"]
    run = f"pages-{os.getpid()}-{site.server_port}"
    retry = {"backoff": "fixed", "initial": "200ms", "jitter": "none"}
    fetches = submit([{"kind": "http.request", "payload": {"method": "GET", "url": f"{base}/{name}"},
                       "tags": [run], "meta": {"page": name}, "retry": retry} for name in names])
    print(f"{len(fetches)} pages to fetch from {base}")
    fetched = [(name, finished(id)) for name, id in zip(names, fetches)]
    good = [(name, job) for name, job in fetched if job["state"] == "succeeded"]

    checks = submit([{"kind": "command.run", "tags": [run], "meta": {"page": name},
                      "payload": {"command": "page-facts", "stdin": job["output"]["body"]}} for name, job in good])
    print(f"\n{'page':10} {'tries':>5}  {'title':10} {'words':>6} {'links':>6} {'bytes':>6}")
    facts = {}
    for (name, fetch), id in zip(good, checks):
        check = finished(id)
        if check["state"] != "succeeded":
            sys.exit(f"{name}: {check['error']}")
        facts[name] = json.loads(check["output"]["stdout"])
        row = facts[name]
        print(f"{name:10} {fetch['attempt']:5}  {row['title']:10} {row['words']:6} {row['links']:6} {row['bytes']:6}")
    print(f"{'sum':10} {'':5}  {'':10} {sum(f['words'] for f in facts.values()):6} "
          f"{sum(f['links'] for f in facts.values()):6} {sum(f['bytes'] for f in facts.values()):6}")

    print("\ndead letters of this run (GET /v1/jobs?state=dead&tag=" + run + "):")
    dead = call("GET", f"/v1/jobs?state=dead&tag={run}")["items"]
    for job in dead:
        print(f"  {job['id']}  {job['meta']['page']:6} attempt {job['attempt']} of {job['max_attempts']}  "
              f"{job['error']['code']}: {job['error']['message']}")

    tries = {name: job["attempt"] for name, job in fetched}
    as_told = (tries["flaky"] == 3 and [job["meta"]["page"] for job in dead] == ["gone"]
               and len(facts) == len(names) - 1)
    sys.exit(0 if as_told else f"not as described: tries {tries}, dead {[job['meta'] for job in dead]}")

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--url", default=os.environ.get("WINDLASS_URL", "http://127.0.0.1:8080"))
args = parser.parse_args()
main()
