//! Files between the segments that are none.

use super::error::{Damage, LogError, io_error};
use super::files::Files;
use super::format::{Mark, SEGMENT_HEAD, segment_name};
use super::survey::{Head, batch_len, bounds};
use super::window::Window;

/// Takes out the files that have neither a head nor room for a batch and whose names are among the sequences of the file
/// before them. As segments they would end that one at their names, and hide what it holds beyond.
pub(super) fn take_strays(
    files: &dyn Files,
    mark: Mark,
    left: &mut Vec<((u64, u64), Head)>,
    elsewhere: &mut Vec<Damage>,
) -> Result<(), LogError> {
    let mut i = 1;
    while let Some([((before, len), _), ((first, size), head)]) = left.get(i - 1..=i) {
        if head.is_err() && *size <= SEGMENT_HEAD as u64 {
            let mut window = Window::lenient(segment_name(*before));
            let sound = sound_batches(files, mark, &mut window, SEGMENT_HEAD as u64, *len)
                .map_err(io_error(format!("cannot read {}", window.name())))?;
            if sound.iter().any(|(_, _, last)| last >= first) {
                let file = segment_name(*first);
                elsewhere.push(Damage { file, from: 0, to: *size, missing: Vec::new() });
                let _ = left.remove(i);
                continue;
            }
        }
        i += 1;
    }
    Ok(())
}

/// Where batches begin that check, and their first and last sequences.
pub(super) fn sound_batches(
    files: &dyn Files,
    mark: Mark,
    window: &mut Window,
    mut at: u64,
    size: u64,
) -> std::io::Result<Vec<(u64, u64, u64)>> {
    let mut sound = Vec::new();
    while at < size {
        let Some(found) = window.batch(files, mark, at, size)? else {
            at = window.find_mark(files, mark, at + 1, size)?;
            continue;
        };
        let (first, last) = bounds(&found);
        sound.push((at, first, last));
        at += batch_len(&found);
    }
    Ok(sound)
}
