//! Bytes that anybody who knows the seed knows too, at any position.
use std::io::Write;

/// A cursor in the stream of one seed.
#[derive(Clone, Debug)]
pub struct Stream {
    seed: u64,
    position: u64,
}

impl Stream {
    pub fn new(seed: u64) -> Stream {
        Stream { seed, position: 0 }
    }

    /// The next bytes of the stream.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        let mut rest = buffer;
        while !rest.is_empty() {
            let word = self.word(self.position / 8).to_le_bytes();
            let skip = (self.position % 8) as usize;
            let take = rest.len().min(8 - skip);
            rest[..take].copy_from_slice(&word[skip..skip + take]);
            self.position += take as u64;
            rest = &mut rest[take..];
            // Whole words from here on.
            if self.position.is_multiple_of(8) {
                let first = self.position / 8;
                let whole = rest.len() / 8 * 8;
                let (words, tail) = rest.split_at_mut(whole);
                for (index, chunk) in (first..).zip(words.chunks_exact_mut(8)) {
                    chunk.copy_from_slice(&self.word(index).to_le_bytes());
                }
                self.position += whole as u64;
                rest = tail;
            }
        }
    }

    /// Whether these are the next bytes of the stream. The cursor moves on either way.
    pub fn matches(&mut self, bytes: &[u8]) -> bool {
        let mut expected = [0; 4096];
        bytes.chunks(expected.len()).fold(true, |same, chunk| {
            let expected = &mut expected[..chunk.len()];
            self.fill(expected);
            same && expected == chunk
        })
    }

    /// Writes the next `bytes` of the stream.
    pub fn write_to(&mut self, mut bytes: u64, out: &mut impl Write) -> std::io::Result<()> {
        let mut buffer = vec![0; 64 * 1024];
        while bytes > 0 {
            let portion = buffer.len().min(usize::try_from(bytes).unwrap_or(usize::MAX));
            self.fill(&mut buffer[..portion]);
            out.write_all(&buffer[..portion])?;
            bytes -= portion as u64;
        }
        Ok(())
    }

    fn word(&self, index: u64) -> u64 {
        let mut z = self
            .seed
            .wrapping_add(index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::Stream;

    #[test]
    fn portions_of_any_size_give_the_same_bytes() {
        let mut whole = vec![0; 1000];
        Stream::new(7).fill(&mut whole);
        let mut stream = Stream::new(7);
        let mut pieces = Vec::new();
        for size in [1, 7, 8, 9, 63, 400, 512] {
            let mut piece = vec![0; size];
            stream.fill(&mut piece);
            pieces.extend(piece);
        }
        assert_eq!(whole, pieces);
        assert!(Stream::new(7).matches(&whole));
        whole[999] ^= 1;
        assert!(!Stream::new(7).matches(&whole));
    }
}
