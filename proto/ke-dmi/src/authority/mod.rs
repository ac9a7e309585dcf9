//! A server's end of a connection on which a client may send any `:authority`.
//!
//! Clients written with grpc-go send the path of a unix socket as the authority of their requests. The HTTP/2 library
//! below tonic takes only what can stand in a URI and resets the stream before a handler sees it. [`AnyAuthority`] sits
//! between the socket and that library and puts `localhost` in place of what cannot be parsed; `frames.rs` says how.
//! Whatever the server sends passes untouched. Clients of ours need nothing of this.

mod frames;
mod hpack;
mod huffman;
mod table;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::{Stream, stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::server::Connected;

pub use frames::FrameError;
pub use hpack::HpackError;

use frames::Rewriter;

/// What one read from the socket takes at most.
const READ: usize = 4096;
/// After an error of `accept`, such as no more file descriptors: others close theirs in the meantime.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The connections of a listening socket, for `Server::builder()...serve_with_incoming(ke_dmi::incoming(listener))`.
/// Never ends and never fails: an error of `accept` is logged and tried again.
pub fn incoming(listener: UnixListener) -> impl Stream<Item = io::Result<AnyAuthority<UnixStream>>> + Send {
    stream::unfold(listener, |listener| async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((Ok(AnyAuthority::new(stream)), listener)),
                Err(error) => {
                    tracing::warn!(%error, "accept a connection on a unix socket");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    })
}

/// A connection that an HTTP/2 server reads and writes. Malformed headers end it with an error of kind `InvalidData`.
///
/// Reads from the socket only when the server has taken all that was read before, so a slow server slows the client.
/// Holds at most one header frame of input (16 KiB) and 16 KiB and one header block of output (64 KiB).
pub struct AnyAuthority<IO> {
    io: IO,
    rewriter: Rewriter,
    /// From the socket, not yet rewritten.
    input: BytesMut,
    /// Rewritten, not yet taken by the server.
    output: BytesMut,
    /// Told when `output` has been taken, and ever after.
    broken: Option<FrameError>,
}

impl<IO> AnyAuthority<IO> {
    pub fn new(io: IO) -> Self {
        Self { io, rewriter: Rewriter::new(), input: BytesMut::new(), output: BytesMut::new(), broken: None }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for AnyAuthority<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if this.output.has_remaining() || buf.remaining() == 0 {
                let taken = this.output.split_to(this.output.len().min(buf.remaining()));
                buf.put_slice(&taken);
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = this.broken {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
            }
            this.broken = this.rewriter.advance(&mut this.input, &mut this.output).err();
            if this.output.has_remaining() || this.broken.is_some() {
                continue;
            }
            let mut space = [0; READ];
            let mut read = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.io).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                // The end. Half a frame would mean nothing to the server: it sees the end between two frames.
                return Poll::Ready(Ok(()));
            }
            this.input.extend_from_slice(read.filled());
        }
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for AnyAuthority<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<IO: Connected> Connected for AnyAuthority<IO> {
    type ConnectInfo = IO::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.io.connect_info()
    }
}

#[cfg(test)]
mod tests;
