//! Which partition a room is in: what the Java client and kafkajs compute, so that records of other programs lie where ours do.

/// The partition of a key among `count`.
pub fn partition_of(key: &[u8], count: u32) -> u32 {
    (murmur2(key) & 0x7fff_ffff) % count.max(1)
}

/// The Java client's 32-bit hash of a key.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    // Java's lengths are 32 bits; a key is far shorter.
    let mut h = 0x9747_b28c ^ data.len() as u32;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = word.iter().rev().fold(0u32, |k, b| k << 8 | u32::from(*b));
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        h ^= rest.iter().rev().fold(0u32, |k, b| k << 8 | u32::from(*b));
        h = h.wrapping_mul(M);
    }
    h = (h ^ h >> 13).wrapping_mul(M);
    h ^ h >> 15
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Vectors {
        partitions: u32,
        vectors: Vec<Vector>,
    }

    #[derive(Deserialize)]
    struct Vector {
        key: String,
        #[serde(default = "once")]
        repeat: usize,
        hash: i32,
        partition: u32,
    }

    fn once() -> usize {
        1
    }

    /// What Java itself computes; the file says how it was made.
    #[test]
    fn the_partition_is_the_java_clients() {
        let file = include_str!("../../../../tests/fixtures/murmur2.json");
        let file: Vectors = serde_json::from_str(file).unwrap();
        assert!(file.vectors.len() >= 10);
        for v in &file.vectors {
            let key = v.key.repeat(v.repeat);
            assert_eq!(murmur2(key.as_bytes()) as i32, v.hash, "{key:?}");
            assert_eq!(partition_of(key.as_bytes(), file.partitions), v.partition, "{key:?}");
        }
    }

    #[test]
    fn every_partition_is_one_of_the_count() {
        for count in [1, 2, 3, 16, 1000] {
            assert!((0..1000).all(|n: u32| partition_of(&n.to_le_bytes(), count) < count));
        }
    }
}
