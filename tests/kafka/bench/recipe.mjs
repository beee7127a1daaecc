// What klatch replaces, as people build it: Socket.IO, a Kafka producer and the Redis adapter. tests/load/kafka-compare measures it.
//
//   node recipe.mjs REDIS_SOCKET BROKERS TOPIC
//
// The room is the handshake's. A message is produced to the topic, sent to the others in the room, and then the sender is answered
// whether Kafka took it. As its authors would: one producer for all, acks of all replicas, and who is in the room gets the message also
// when it could not be stored, which is logged.
import { createServer } from "node:http";
import { createAdapter } from "@socket.io/redis-adapter";
import kafkajs from "kafkajs";
import { createClient } from "redis";
import { Server } from "socket.io";

const [redis, brokers, topic] = process.argv.slice(2);

const publisher = createClient({ socket: { path: redis } });
const subscriber = publisher.duplicate();
for (const client of [publisher, subscriber]) client.on("error", (error) => console.error("redis:", error.message));
await Promise.all([publisher.connect(), subscriber.connect()]);

const kafka = new kafkajs.Kafka({ clientId: "chat", brokers: brokers.split(","), logLevel: kafkajs.logLevel.ERROR });
const admin = kafka.admin();
await admin.connect();
if (!(await admin.listTopics()).includes(topic)) await admin.createTopics({ topics: [{ topic, numPartitions: 16 }] });
await admin.disconnect();
const producer = kafka.producer({ allowAutoTopicCreation: false });
await producer.connect();

const http = createServer();
const io = new Server(http, { serveClient: false, adapter: createAdapter(publisher, subscriber) });
io.use((socket, next) => {
  const room = socket.handshake.auth.room ?? socket.handshake.headers.room;
  if (!room) return next(new Error("Invalid room id"));
  socket.data.room = room;
  next();
});
io.on("connection", (socket) => {
  const { room } = socket.data;
  socket.join(room);
  socket.on("message", async (message, answer) => {
    let stored = true;
    try {
      const value = JSON.stringify({ room, sender: socket.id, message, ts: Date.now() });
      await producer.send({ topic, acks: -1, messages: [{ key: room, value }] });
    } catch (error) {
      stored = false;
      console.error("cannot produce:", error.message);
    }
    socket.to(room).emit("message", message);
    answer?.(stored);
  });
});
http.listen(0, "127.0.0.1", 4096, () => console.log(`listening on 127.0.0.1:${http.address().port}`));
