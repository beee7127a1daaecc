//! What a node does where something stays away for long: it holds no more than it may.

use super::played::*;
use super::*;

/// A node went on reading while its view could not be written, and kept the whole topic in memory.
#[test]
fn a_view_that_cannot_be_written_bounds_what_is_read() {
    let rig = rig();
    let node = rig.node("memory");
    let view = node.broker.hub().view();
    view.fail_writes(true);
    let value = format!("\"{}\"", "x".repeat(200 << 10));
    let write = || rig.write(home("lobby"), Some("lobby"), Some(value.as_bytes()), &[]);
    let mut written = 0;
    while node.broker.health() != Health::StorageFull {
        assert!(written < 1000, "it reads on with {} bytes in memory", view.overlay_bytes());
        write();
        written += 1;
        node.until("it has read that, or reads no more", |n| {
            n.broker.hub().last("lobby").unwrap() == written || n.broker.health() == Health::StorageFull
        });
    }
    let held = view.overlay_bytes();
    let e = node.publish("lobby", "m1", "1").wait().unwrap_err();
    assert_eq!(e.code(), Code::StorageFull);
    (0..10).for_each(|_| write());
    assert_eq!(view.overlay_bytes(), held);
    view.fail_writes(false);
    node.becomes(Health::Up);
    node.reaches("lobby", written + 10);
    assert_eq!(node.stored("lobby", "m1", "1").position.offset, written + 11);
    drop(view);
    node.stop();
}
