#!/usr/bin/env python3
"""What the steps of the examples do. Each verb is a command of commands.toml: it reads its arguments and standard
input, prints its result, and fails with a message and exit code 1. A step may run twice (its worker may die just
before it says that it is done), so verbs that change something can be repeated."""
import csv, json, os, re, sqlite3, sys


def database(path):
    connection = sqlite3.connect(path, timeout=10)
    connection.execute("CREATE TABLE IF NOT EXISTS sales (run TEXT, shop TEXT, orders INT, total REAL, PRIMARY KEY (run, shop))")
    connection.execute("CREATE TABLE IF NOT EXISTS bookings (trip TEXT, what TEXT, state TEXT, PRIMARY KEY (trip, what))")
    return connection


def extract(file):
    with open(file, newline="", encoding="utf-8") as rows:
        print(json.dumps(list(csv.DictReader(rows))))


def transform():
    """Sums up the orders of each shop; rows without a usable amount are counted as rejects."""
    rows, shops, rejects = json.load(sys.stdin), {}, 0
    for row in rows:
        try:
            shop, amount = row["shop"].strip(), float(row["amount"])
            if not shop or amount < 0:
                raise ValueError
        except (KeyError, ValueError, AttributeError):
            rejects += 1
            continue
        orders, total = shops.get(shop, (0, 0.0))
        shops[shop] = (orders + 1, round(total + amount, 2))
    print(json.dumps({"rows": len(rows), "rejects": rejects, "shops": shops}))


def quality(rejects_max):
    """Fails when too large a share of the rows was rejected."""
    facts = json.load(sys.stdin)
    share = facts["rejects"] / max(1, facts["rows"])
    if share > float(rejects_max):
        sys.exit(f"{facts['rejects']} of {facts['rows']} rows are unusable ({share:.0%}, at most {float(rejects_max):.0%})")
    print(f"{share:.0%} of {facts['rows']} rows rejected")


def load(path, run):
    """All rows of a run or none; loading the same run again changes nothing."""
    shops = json.load(sys.stdin)["shops"]
    with database(path) as connection:
        connection.executemany("INSERT OR REPLACE INTO sales VALUES (?, ?, ?, ?)",
                               [(run, shop, orders, total) for shop, (orders, total) in shops.items()])
    print(f"{len(shops)} shops")


def count_words(file):
    with open(file, encoding="utf-8") as text:
        words = re.findall(r"\w+", text.read().lower())
    longest = max(words, key=len, default="")
    print(json.dumps({"file": os.path.basename(file), "words": len(words), "longest": longest}))


def add_up():
    """One JSON text per file comes in, as a list."""
    files = [json.loads(text) for text in json.load(sys.stdin)]
    longest = max((file["longest"] for file in files), key=len, default="")
    print(f"{sum(file['words'] for file in files)} words in {len(files)} files, the longest is {longest!r}")


def find_stale(folder):
    stale = sorted(name for name in os.listdir(folder) if name.endswith(".old"))
    if not stale:
        sys.exit("there is nothing to delete")
    print("\n".join(stale))


def delete_files(folder):
    """Deletes what was approved, and nothing that came since."""
    names = sys.stdin.read().split("\n")
    for name in filter(None, names):
        try:
            os.remove(os.path.join(folder, os.path.basename(name)))
        except FileNotFoundError:
            pass  # deleted by an attempt that could not say so
    print(f"{len(list(filter(None, names)))} files deleted")


def book(path, trip, what):
    with database(path) as connection:
        connection.execute("INSERT OR REPLACE INTO bookings VALUES (?, ?, 'booked')", (trip, what))
    print(f"{what} booked")


def unbook(path, trip, what):
    with database(path) as connection:
        connection.execute("UPDATE bookings SET state = 'cancelled' WHERE trip = ? AND what = ?", (trip, what))
    print(f"{what} cancelled")


def pay(amount, limit):
    if float(amount) > float(limit):
        sys.exit(f"the card is declined: {amount} is over its limit of {limit}")
    print(f"{amount} paid")


VERBS = {verb.__name__.replace("_", "-"): verb for verb in
         (extract, transform, quality, load, count_words, add_up, find_stale, delete_files, book, unbook, pay)}
VERBS[sys.argv[1]](*sys.argv[2:])
