#!/usr/bin/env python3
"""When cron patterns are due, by brute force: the oracle of tests/it/cron_oracle.rs.

Reads {"from", "to" (seconds since 1970), "zones", "patterns"} from standard input. Every day between is looked at, and
on the days that match every civil second (minute) of the pattern; each is turned into instants with the standard
library's zoneinfo, under the rules that docs/schedules.md states. Shares no code and no method with what it checks.

Writes one file of 64-bit numbers (little endian, sorted) per pattern, zone, gap rule and repeat rule into the folder
that is its argument: P-Z-GAP-REPEAT.
"""

import array
import calendar
import datetime as dt
import json
import sys
from zoneinfo import ZoneInfo

UTC = dt.timezone.utc
MONTHS = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()
DAYS = "SUN MON TUE WED THU FRI SAT".split()


def number(text, names, base):
    return names.index(text) + base if text in names else int(text)


def plain(field, low, high, names=()):
    """The numbers that a field names; those of items that are no numbers are left out."""
    found = set()
    for item in field.split(","):
        body, _, step = item.partition("/")
        if body == "*" or body == "?":
            first, last = low, high
        elif "-" in body:
            first, last = (number(part, names, low) for part in body.split("-"))
            if low == 0 and high == 7 and last == 0:
                last = 7
        elif body.isdigit() or body in names:
            first = last = number(body, names, low)
        else:
            continue
        found.update(range(first, last + 1, int(step or 1)))
    return found


def sunday_based(day):
    return (day.weekday() + 1) % 7


def in_days_of_month(field, day):
    last = calendar.monthrange(day.year, day.month)[1]
    if day.day in plain(field, 1, 31):
        return True
    for item in field.split(","):
        if item == "L" and day.day == last:
            return True
        if item == "LW":
            ends = [d for d in range(1, last + 1) if dt.date(day.year, day.month, d).weekday() < 5]
            if day.day == ends[-1]:
                return True
        elif item.endswith("W") and int(item[:-1]) <= last:
            meant = dt.date(day.year, day.month, int(item[:-1]))
            near = [
                d
                for d in (dt.date(day.year, day.month, n) for n in range(1, last + 1))
                if d.weekday() < 5
            ]
            if day == min(near, key=lambda d: abs((d - meant).days)):
                return True
    return False


def in_weekdays(field, day):
    if sunday_based(day) in {n % 7 for n in plain(field, 0, 7, DAYS)}:
        return True
    last = calendar.monthrange(day.year, day.month)[1]
    for item in field.split(","):
        if "#" in item:
            name, nth = item.split("#")
            if sunday_based(day) == number(name, DAYS, 0) % 7 and (day.day - 1) // 7 + 1 == int(nth):
                return True
        elif item.endswith("L"):
            if sunday_based(day) == number(item[:-1], DAYS, 0) % 7 and day.day + 7 > last:
                return True
    return False


def day_matches(fields, day):
    _, _, _, days, months, weekdays = fields
    if day.month not in plain(months, 1, 12, MONTHS):
        return False
    any_day, any_weekday = days in "*?", weekdays in "*?"
    if any_day or any_weekday:
        return (any_day or in_days_of_month(days, day)) and (any_weekday or in_weekdays(weekdays, day))
    return in_days_of_month(days, day) or in_weekdays(weekdays, day)


def instants(civil, zone):
    """What a civil time is: ("once", t), ("twice", t1, t2), or ("gap", first instant after it)."""
    shown = set()
    for fold in (0, 1):
        instant = civil.replace(tzinfo=zone, fold=fold).astimezone(UTC)
        if instant.astimezone(zone).replace(tzinfo=None) == civil:
            shown.add(int(instant.timestamp()))
    if len(shown) == 1:
        return ("once", *shown)
    if shown:
        return ("twice", *sorted(shown))
    # The second at which the offset changes: looked for one by one, from the later side.
    second = int(civil.replace(tzinfo=zone, fold=0).astimezone(UTC).timestamp())
    after = dt.datetime.fromtimestamp(second, zone).utcoffset()
    while dt.datetime.fromtimestamp(second - 1, zone).utcoffset() == after:
        second -= 1
    return ("gap", second)


def main():
    order = json.load(sys.stdin)
    begin, end = order["from"], order["to"]
    first = dt.datetime.fromtimestamp(begin, UTC).date() - dt.timedelta(days=2)
    span = (end - begin) // 86400 + 4
    days = [first + dt.timedelta(days=n) for n in range(span)]
    for p, pattern in enumerate(order["patterns"]):
        fields = pattern.upper().split()
        fields = ["0"] * (6 - len(fields)) + fields
        times = [
            dt.time(h, m, s)
            for h in sorted(plain(fields[2], 0, 23))
            for m in sorted(plain(fields[1], 0, 59))
            for s in sorted(plain(fields[0], 0, 59))
        ]
        civils = [dt.datetime.combine(day, t) for day in days if day_matches(fields, day) for t in times]
        for z, name in enumerate(order["zones"]):
            zone = ZoneInfo(name)
            found = [instants(civil, zone) for civil in civils]
            for gap in ("shift", "skip"):
                for repeat in ("first", "last", "both"):
                    due = set()
                    for sort, *at in found:
                        if sort == "once" or (sort == "gap" and gap == "shift"):
                            due.add(at[0])
                        elif sort == "twice":
                            due.update({"first": at[:1], "last": at[1:], "both": at}[repeat])
                    due = array.array("q", sorted(t for t in due if begin < t <= end))
                    with open(f"{sys.argv[1]}/{p}-{z}-{gap}-{repeat}", "wb") as out:
                        due.tofile(out)


main()
