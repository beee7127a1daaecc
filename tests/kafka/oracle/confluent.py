# Writes to a topic as programs on librdkafka do: lines "key TAB value" from stdin, each sent as it comes.
#
#   python confluent.py ADDRESSES TOPIC
import sys

from confluent_kafka import Producer

addresses, topic = sys.argv[1:]
failed = []
producer = Producer({
    "bootstrap.servers": addresses,
    # As the Java client has it. librdkafka's own default is another one.
    "partitioner": "murmur2_random",
    # New partitions are noticed soon.
    "topic.metadata.refresh.interval.ms": 200,
    "enable.idempotence": True,
})


def delivered(error, _message):
    if error is not None:
        failed.append(str(error))


for line in sys.stdin:
    key, value = line.rstrip("\n").split("\t")
    producer.produce(topic, key=key, value=value, on_delivery=delivered)
    producer.poll(0)
producer.flush()
sys.exit("\n".join(failed) or 0)
