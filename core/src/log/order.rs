//! Which of the sound parts in a damaged stretch are at their places.

/// The longest run of strictly increasing numbers: the indices of its members, in order.
///
/// A block that a disk wrote to a wrong place can bring whole batches or records with it. Taking whatever comes next in
/// order would jump ahead to those of a later place and lose everything between; the longest run does not.
pub(super) fn longest_run(numbers: &[u64]) -> Vec<usize> {
    // Of the runs of each length, the index at which the one with the smallest end ends; and what comes before each number.
    let mut ends: Vec<usize> = Vec::new();
    let mut before: Vec<Option<usize>> = Vec::with_capacity(numbers.len());
    for (i, number) in numbers.iter().enumerate() {
        let length = ends.partition_point(|end| numbers.get(*end).is_some_and(|n| n < number));
        before.push(length.checked_sub(1).and_then(|l| ends.get(l)).copied());
        match ends.get_mut(length) {
            Some(end) => *end = i,
            None => ends.push(i),
        }
    }
    let mut run = Vec::with_capacity(ends.len());
    let mut next = ends.last().copied();
    while let Some(i) = next {
        run.push(i);
        next = before.get(i).copied().flatten();
    }
    run.reverse();
    run
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_came_to_a_wrong_place_is_left_out() {
        let run = |numbers: &[u64]| longest_run(numbers).iter().map(|i| numbers[*i]).collect::<Vec<_>>();
        assert!(run(&[]).is_empty());
        assert_eq!(run(&[1, 2, 3]), [1, 2, 3]);
        assert_eq!(run(&[1, 8, 9, 4, 5, 6, 7, 2, 3, 10]), [1, 4, 5, 6, 7, 10], "two blocks swapped");
        assert_eq!(run(&[1, 2, 2, 3]), [1, 2, 3]);
    }

    proptest! {
        #[test]
        fn no_run_is_longer(numbers in prop::collection::vec(0u64..12, 0..11)) {
            let run: Vec<u64> = longest_run(&numbers).iter().map(|i| numbers[*i]).collect();
            prop_assert!(run.windows(2).all(|w| w[0] < w[1]));
            let rising = |mask: &u32| {
                let chosen = (0..numbers.len()).filter(|i| mask & 1 << i != 0).map(|i| numbers[i]);
                chosen.clone().zip(chosen.skip(1)).all(|(a, b)| a < b)
            };
            let longest = (0u32..1 << numbers.len()).filter(rising).map(u32::count_ones).max();
            prop_assert_eq!(longest, Some(run.len() as u32));
        }
    }
}
