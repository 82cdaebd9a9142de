//! Finds a shorter history that still fails.

use super::draw::Step;

/// Leaves out steps, in ever smaller runs, as long as what remains still fails. Bounded by the square of
/// the number of steps.
pub async fn shrink(
    mut steps: Vec<Step>,
    mut fails: impl AsyncFnMut(&[Step]) -> bool,
) -> Vec<Step> {
    let mut run = steps.len() / 2;
    while run > 0 {
        let mut at = 0;
        while at < steps.len() {
            let end = (at + run).min(steps.len());
            let shorter = [&steps[..at], &steps[end..]].concat();
            if fails(&shorter).await {
                steps = shorter;
            } else {
                at = end;
            }
        }
        run /= 2;
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keeps_only_the_steps_that_matter() {
        let mut steps: Vec<Step> = (0..40).map(Step::Promote).collect();
        steps[7] = Step::Stats;
        steps[33] = Step::Peek(1);
        let both =
            async |steps: &[Step]| steps.contains(&Step::Stats) && steps.contains(&Step::Peek(1));
        assert_eq!(shrink(steps, both).await, [Step::Stats, Step::Peek(1)]);
    }
}
