//! What a node does where the client that sends has failed for good: with its sequence gone, it may send nothing more.

use super::played::*;
use super::*;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

/// Has the cluster answer so many produce requests with what ends a producer.
fn fail(rig: &Rig, count: usize) {
    let errors = vec![RDKafkaRespErr::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER; count];
    rig.mock.request_errors(RDKafkaApiKey::Produce, &errors);
}

#[test]
fn r14_publishers_who_wait_are_answered_by_the_next_producer() {
    let rig = rig();
    let node = rig.node("memory");
    node.stored("lobby", "before", "1");
    fail(&rig, 1);
    let ids = (0..60).map(|n| if n % 3 == 0 { String::new() } else { format!("m{n}") });
    let sent: Vec<_> =
        ids.enumerate().map(|(n, id)| (n, id.clone(), node.publish("lobby", &id, &n.to_string()))).collect();
    let mut expected = Vec::new();
    for (n, id, promise) in sent {
        match promise.wait() {
            Ok(ack) => expected.push((ack.position.offset, n.to_string())),
            // Sent again it might be there twice.
            Err(e) => assert!(id.is_empty() && e.code() == Code::Unknown, "{n} {id}: {e}"),
        }
    }
    assert!(expected.len() >= 40);
    assert_eq!(node.metrics.kafka_producers_replaced.get(), 1);
    node.becomes(Health::Up);
    let told: Vec<_> = node.history("lobby").into_iter().map(|(offset, _, _, data)| (offset, data)).collect();
    let missing: Vec<_> = expected.iter().filter(|e| !told.contains(e)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    assert!(expected.is_sorted(), "in the order in which they were sent");
    let mut once: Vec<_> = told.iter().map(|(_, data)| data).collect();
    once.sort();
    once.dedup();
    // The one before has the data of one of them.
    assert_eq!(once.len() + 1, told.len());
    node.stop();
}

/// Each client that was put in the place of another was given the messages as if they were new: nobody was told for as long as they failed.
#[test]
fn a_producer_that_fails_again_and_again_keeps_nobody_waiting() {
    let rig = rig();
    let mut settings = rig.settings("memory");
    settings.kafka.message_timeout_ms = 1_500;
    settings.limits.publish_timeout_ms = 600_000;
    let node = rig.node_with(&settings);
    node.stored("lobby", "before", "1");
    fail(&rig, 100_000);
    let sent = [node.publish("lobby", "m1", "1"), node.publish("lobby", "", "2")];
    node.becomes(Health::Degraded);
    let soon = Duration::from_secs(60);
    // And not for want of an answer.
    let unknown =
        |e: Error| e.code() == Code::Unknown && e.message().contains("the Kafka cluster did not say");
    for promise in sent {
        let e = promise.wait_within(soon).unwrap_err();
        assert!(unknown(e.clone()), "{e}");
    }
    let e = node.publish("lobby", "m1", "1").wait_within(soon).unwrap_err();
    assert_eq!(e.code(), Code::Unknown);
    assert!(node.metrics.kafka_producers_replaced.get() > 1);
    rig.mock.clear_request_errors(RDKafkaApiKey::Produce);
    node.until("stored", |n| n.publish("lobby", "m1", "1").wait().is_ok());
    node.becomes(Health::Up);
    assert_eq!(node.history("lobby").iter().filter(|(_, _, id, _)| id == "m1").count(), 1);
    node.stop();
}
