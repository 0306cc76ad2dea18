//! Finds a short scenario that still fails, by leaving out ever smaller parts (delta debugging, Zeller and Hildebrandt
//! 2002, without the complements' refinement: a run of a lab is dear).

use super::step::Step;

/// Leaves out what it can with at most `tries` runs; what it returns fails as the whole did.
pub async fn shrink(
    mut steps: Vec<Step>,
    mut tries: usize,
    mut fails: impl AsyncFnMut(&[Step]) -> bool,
) -> Vec<Step> {
    let mut part = steps.len() / 2;
    while part > 0 && tries > 0 {
        let mut from = 0;
        while from < steps.len() && tries > 0 {
            let mut fewer = steps.clone();
            fewer.drain(from..(from + part).min(steps.len()));
            tries -= 1;
            if fails(&fewer).await {
                steps = fewer;
            } else {
                from += part;
            }
        }
        part /= 2;
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_matters_is_left_and_in_order() {
        let steps: Vec<Step> = (0..40).map(|nth| Step::DeletePod { nth }).collect();
        let wanted = [Step::DeletePod { nth: 7 }, Step::DeletePod { nth: 31 }];
        let fails = async |steps: &[Step]| wanted.iter().all(|step| steps.contains(step));
        assert_eq!(shrink(steps.clone(), 1000, fails).await, wanted);
        // Out of tries: longer, and failing still.
        let longer = shrink(steps, 5, fails).await;
        assert!(longer.len() < 40 && fails(&longer).await);
    }
}
