//! Boxes and lines with their coordinates, in pixels.

use super::order::{Ordered, order};
use super::place::{Wish, settle};
use super::text::{clean, shorten, width_em};
use super::{Drawing, LABEL_MAX};

/// More nodes than this are drawn small.
const DENSE: usize = 150;
/// Longest row, in pixels; a level that needs more is broken into several rows.
const ROW_MAX: f64 = 6_000.0;
/// Passes that pull entries towards their neighbours.
const PASSES: usize = 12;
/// Length of a bend along its row.
const BEND: f64 = 2.0;

/// Everything has its place.
pub(super) struct Layout {
    /// Of the picture, without margins.
    pub width: f64,
    pub height: f64,
    /// The centre of each node.
    pub centres: Vec<(f64, f64)>,
    /// Of every box.
    pub box_width: f64,
    pub box_height: f64,
    /// Size of the letters.
    pub font: f64,
    /// Small boxes with one line of text.
    pub dense: bool,
    /// Levels go from left to right instead of from top to bottom.
    pub sideways: bool,
    /// For each line, its points: out of a box, in and out of the levels that it passes, into a box.
    pub lines: Vec<Vec<(f64, f64)>>,
}

/// Lengths along a row and across the rows.
struct Measure {
    /// Of a box.
    along: f64,
    across: f64,
    /// Between entries of a row.
    gap: f64,
}

/// A part of a level.
struct Row {
    entries: Vec<u32>,
    /// Its middle, across.
    across: f64,
}

/// Bounded: a fixed number of passes over entries and links.
pub(super) fn lay_out(drawing: &Drawing) -> Layout {
    let ordered = order(drawing);
    let dense = drawing.nodes.len() > DENSE;
    let font = if dense { 10.0 } else { 13.0 };
    let longest = drawing.nodes.iter().map(|node| {
        let label = width_em(&shorten(&clean(&node.label), LABEL_MAX)) * font;
        let second = if dense { 0.0 } else { width_em(&node.second_line()) * (font - 2.0) };
        label.max(second)
    });
    let padding = if dense { 12.0 } else { 24.0 };
    // Even, so that its middle is a whole pixel.
    let box_width = ((longest.fold(40.0, f64::max) + padding) / 2.0).ceil() * 2.0;
    let box_height = if dense { 18.0 } else { 42.0 };
    let gap = if dense { 5.0 } else { 18.0 };
    let down = Measure { along: box_width, across: box_height, gap };
    let right = Measure { along: box_height, across: box_width, gap };
    let sideways = extent(&ordered, &right) < extent(&ordered, &down);
    let measure = if sideways { right } else { down };
    let rows = rows(&ordered, &measure);
    let along = along(&ordered, &rows, &measure);
    let across = by_entry(&rows, ordered.above.len());
    let turn = |along: f64, across: f64| if sideways { (across, along) } else { (along, across) };
    let centres = (0..ordered.nodes).map(|n| turn(along[n], across[n])).collect();
    let lines = ordered.lines.iter().map(|line| {
        let points = points(line, &along, &across, measure.across / 2.0);
        points.into_iter().map(|(along, across)| turn(along, across)).collect()
    });
    let lines = lines.collect();
    let ends = (0_u32..).zip(&along).map(|(entry, at)| at + half(&ordered, entry, &measure));
    let longest = ends.fold(0.0, f64::max);
    let deepest = rows.last().map_or(0.0, |row| row.across + measure.across / 2.0);
    let (width, height) = turn(longest, deepest);
    Layout { width, height, centres, box_width, box_height, font, dense, sideways, lines }
}

/// The longer side of the picture, about.
fn extent(ordered: &Ordered, measure: &Measure) -> f64 {
    let rows = rows(ordered, measure);
    let longest = rows.iter().map(|row| length(ordered, &row.entries, measure)).fold(0.0, f64::max);
    rows.last().map_or(0.0, |row| row.across).max(longest)
}

fn length(ordered: &Ordered, entries: &[u32], measure: &Measure) -> f64 {
    entries.iter().map(|entry| 2.0 * half(ordered, *entry, measure) + measure.gap).sum()
}

fn half(ordered: &Ordered, entry: u32, measure: &Measure) -> f64 {
    if (entry as usize) < ordered.nodes { measure.along / 2.0 } else { BEND / 2.0 }
}

/// Levels, broken where they are too long, with their places across. The more lines between two levels, the more
/// room they get.
fn rows(ordered: &Ordered, measure: &Measure) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::with_capacity(ordered.levels.len());
    let mut across = measure.across / 2.0;
    for level in &ordered.levels {
        let pieces = (length(ordered, level, measure) / ROW_MAX).ceil().max(1.0);
        // In turns, so that each piece lies as near to its neighbours as the others.
        let pieces = pieces as usize;
        for piece in 0..pieces {
            let entries = level.iter().copied().skip(piece).step_by(pieces).collect();
            rows.push(Row { entries, across });
            across += measure.across + 10.0;
        }
        let links: usize = level.iter().map(|entry| ordered.below[*entry as usize].len()).sum();
        across += 24.0 + (links as f64 * 1.5).min(130.0);
    }
    rows
}

/// The place of every entry along its row.
fn along(ordered: &Ordered, rows: &[Row], measure: &Measure) -> Vec<f64> {
    let mut along = vec![0.0; ordered.above.len()];
    for row in rows {
        let mut at = -length(ordered, &row.entries, measure) / 2.0;
        for entry in &row.entries {
            let half = half(ordered, *entry, measure);
            along[*entry as usize] = at + half;
            at += 2.0 * half + measure.gap;
        }
    }
    for pass in 0..PASSES {
        let (count, down) = (rows.len(), pass.is_multiple_of(2));
        for at in 0..count {
            let row = &rows[if down { at } else { count - 1 - at }];
            let wishes: Vec<Wish> =
                row.entries.iter().map(|e| wish(ordered, *e, &along, measure, pass)).collect();
            for (entry, place) in row.entries.iter().zip(settle(&wishes, measure.gap)) {
                along[*entry as usize] = place;
            }
        }
    }
    let edges = (0_u32..).zip(&along).map(|(entry, at)| at - half(ordered, entry, measure));
    let first = edges.fold(f64::INFINITY, f64::min);
    along.iter().map(|place| place - first).collect()
}

/// In between of its neighbours: of those above on the way down, of those below on the way up, and of both in the
/// last two passes. Bends insist, so that long lines are straight.
fn wish(ordered: &Ordered, entry: u32, along: &[f64], measure: &Measure, pass: usize) -> Wish {
    let at = entry as usize;
    let (above, below) = (&ordered.above[at], &ordered.below[at]);
    let (last, down) = (pass + 2 >= PASSES, pass.is_multiple_of(2));
    let seen = above.iter().filter(|_| last || down || below.is_empty());
    let seen = seen.chain(below.iter().filter(|_| last || !down || above.is_empty()));
    let bend = |entry: u32| entry as usize >= ordered.nodes;
    let (sum, count) = seen.fold((0.0, 0.0), |(sum, count), next| {
        let pull = if bend(entry) && bend(*next) { 8.0 } else { 1.0 };
        (sum + pull * along[*next as usize], count + pull)
    });
    let wanted = if count > 0.0 { sum / count } else { along[at] };
    let weight = if bend(entry) { 4.0 } else { 1.0 };
    Wish { at: wanted, weight, half: half(ordered, entry, measure) }
}

fn by_entry(rows: &[Row], entries: usize) -> Vec<f64> {
    let mut across = vec![0.0; entries];
    for row in rows {
        row.entries.iter().for_each(|entry| across[*entry as usize] = row.across);
    }
    across
}

/// In and out of every entry that a line touches.
fn points(line: &[u32], along: &[f64], across: &[f64], half: f64) -> Vec<(f64, f64)> {
    let mut points = Vec::with_capacity(2 * line.len() - 2);
    for (at, entry) in line.iter().enumerate() {
        let (along, across) = (along[*entry as usize], across[*entry as usize]);
        if at > 0 {
            points.push((along, across - half));
        }
        if at + 1 < line.len() {
            points.push((along, across + half));
        }
    }
    points
}
