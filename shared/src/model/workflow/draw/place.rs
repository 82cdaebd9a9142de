//! Where entries lie along their row: in order, apart, and as near to their neighbours as that allows.

/// One entry that wants to lie somewhere.
pub(super) struct Wish {
    /// Where.
    pub at: f64,
    /// How much it matters.
    pub weight: f64,
    /// Half of its length.
    pub half: f64,
}

/// The places that keep order and distance and are, in sum of weighted squares, nearest to the wishes: pooling of
/// adjacent violators. Linear.
pub(super) fn settle(wishes: &[Wish], gap: f64) -> Vec<f64> {
    // With the distances taken off, only the order is left to be kept.
    let mut offsets = Vec::with_capacity(wishes.len());
    let mut offset = 0.0;
    for (at, wish) in wishes.iter().enumerate() {
        if let Some(before) = at.checked_sub(1).map(|before| &wishes[before]) {
            offset += before.half + gap + wish.half;
        }
        offsets.push(offset);
    }
    // Blocks of entries that lie side by side: sum of weights, weighted sum of places, number.
    let mut blocks: Vec<(f64, f64, usize)> = Vec::with_capacity(wishes.len());
    for (wish, offset) in wishes.iter().zip(&offsets) {
        let mut block = (wish.weight, wish.weight * (wish.at - offset), 1);
        while let Some(before) = blocks.pop_if(|before| before.1 / before.0 > block.1 / block.0) {
            block = (block.0 + before.0, block.1 + before.1, block.2 + before.2);
        }
        blocks.push(block);
    }
    let lines = blocks.into_iter().flat_map(|(w, sum, n)| std::iter::repeat_n(sum / w, n));
    lines.zip(offsets).map(|(place, offset)| place + offset).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wishes(at: &[f64]) -> Vec<Wish> {
        at.iter().map(|at| Wish { at: *at, weight: 1.0, half: 5.0 }).collect()
    }

    #[test]
    fn wishes_that_leave_room_come_true() {
        assert_eq!(settle(&wishes(&[0.0, 40.0, 100.0]), 2.0), [0.0, 40.0, 100.0]);
    }

    #[test]
    fn those_that_collide_share_the_disappointment() {
        assert_eq!(settle(&wishes(&[10.0, 10.0]), 2.0), [4.0, 16.0]);
        let heavy = [Wish { weight: 3.0, ..one(10.0) }, one(10.0)];
        assert_eq!(settle(&heavy, 2.0), [7.0, 19.0]);
    }

    #[test]
    fn order_and_distance_always_hold() {
        let places = settle(&wishes(&[90.0, 3.0, 50.0, 49.0, -7.0]), 1.0);
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= 11.0 - 1e-9), "{places:?}");
    }

    fn one(at: f64) -> Wish {
        Wish { at, weight: 1.0, half: 5.0 }
    }
}
