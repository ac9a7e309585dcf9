//! Pure: the two tables of header compression (RFC 7541, section 2.3 and appendix A). Called by `hpack.rs`.

use std::collections::VecDeque;

use bytes::Bytes;

/// Fields that everybody knows, index 1 first.
const FIXED: &[(&str, &str)] = &[
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];

/// What the standard adds to the length of name and value when it measures a field.
const PER_FIELD: usize = 32;

/// Size of a field as the standard counts it.
pub(super) fn size(name: &[u8], value: &[u8]) -> usize {
    name.len() + value.len() + PER_FIELD
}

/// Both tables under one index. The second holds what the peer has sent before, newest first, at most `limit` in size.
pub(super) struct Table {
    sent: VecDeque<(Bytes, Bytes)>,
    size: usize,
    limit: usize,
}

impl Table {
    pub(super) fn new(limit: usize) -> Self {
        Self { sent: VecDeque::new(), size: 0, limit }
    }

    pub(super) fn get(&self, index: usize) -> Option<(Bytes, Bytes)> {
        let place = index.checked_sub(1)?;
        match FIXED.get(place) {
            Some((name, value)) => Some((fixed(name), fixed(value))),
            None => self.sent.get(place - FIXED.len()).cloned(),
        }
    }

    /// Makes room first. A field that is larger than the table empties it and is not kept: that is no error.
    pub(super) fn insert(&mut self, name: Bytes, value: Bytes) {
        let size = size(&name, &value);
        self.shrink_to(self.limit.saturating_sub(size));
        if size <= self.limit {
            self.size += size;
            self.sent.push_front((name, value));
        }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.shrink_to(limit);
    }

    fn shrink_to(&mut self, room: usize) {
        while self.size > room
            && let Some((name, value)) = self.sent.pop_back()
        {
            self.size -= size(&name, &value);
        }
    }

    #[cfg(test)]
    pub(super) fn measured(&self) -> (usize, usize) {
        (self.sent.len(), self.size)
    }
}

fn fixed(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}
