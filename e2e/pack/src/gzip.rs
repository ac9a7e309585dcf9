//! gzip without a name or a time in it, so that the same bytes give the same bytes. Pure.

use std::io::Write;

use anyhow::{Context, Result};
use flate2::{Compression, GzBuilder};

/// Packed once and sent to many: as small as it gets.
pub fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    // 255: an unknown system, whatever this one is.
    let mut encoder = GzBuilder::new().mtime(0).operating_system(255).write(Vec::new(), Compression::best());
    encoder.write_all(bytes).context("compress")?;
    encoder.finish().context("compress")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn what_goes_in_comes_out_and_nothing_else_is_in_it() {
        let text = b"the same again, the same again, the same again".as_slice();
        let packed = gzip(text).unwrap();
        // Magic, method, no name, no time, best compression, unknown system.
        assert_eq!(packed[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 255]);
        assert!(packed.len() < text.len());
        let mut back = Vec::new();
        flate2::read::GzDecoder::new(packed.as_slice()).read_to_end(&mut back).unwrap();
        assert_eq!(back, text);
    }
}
