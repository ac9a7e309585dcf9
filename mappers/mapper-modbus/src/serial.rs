//! A serial line as a stream of bytes, and the turns that units on one line take.
//!
//! Several devices may hang on one line; each opens it, and one at a time asks.

use std::fs::File;
use std::io;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::termios::{ControlModes, OptionalActions, QueueSelector};
use tokio::io::Join;
use tokio::net::unix::pipe;

use crate::settings::{Line, Parity};

/// Both ways of a line. Tokio waits for a terminal's file as it does for a pipe's, and these are its types for files that
/// somebody else opened.
pub type Stream = Join<pipe::Receiver, pipe::Sender>;

/// An open serial line, to be set up and flushed.
#[derive(Debug)]
pub struct Port(File);

impl Port {
    /// Opens and sets up a line.
    pub fn open(line: &Line) -> io::Result<Self> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::open(line.path.as_str(), flags, Mode::empty())?;
        let mut modes = rustix::termios::tcgetattr(&fd)?;
        modes.make_raw();
        modes.set_speed(line.baud_rate)?;
        modes.control_modes.remove(
            ControlModes::CSIZE
                | ControlModes::CSTOPB
                | ControlModes::PARENB
                | ControlModes::PARODD
                | ControlModes::CRTSCTS,
        );
        modes.control_modes.insert(ControlModes::CLOCAL | ControlModes::CREAD);
        modes.control_modes.insert(match line.data_bits {
            5 => ControlModes::CS5,
            6 => ControlModes::CS6,
            7 => ControlModes::CS7,
            _ => ControlModes::CS8,
        });
        modes.control_modes.insert(match line.parity {
            Parity::None => ControlModes::empty(),
            Parity::Even => ControlModes::PARENB,
            Parity::Odd => ControlModes::PARENB | ControlModes::PARODD,
        });
        if line.stop_bits == 2 {
            modes.control_modes.insert(ControlModes::CSTOPB);
        }
        rustix::termios::tcsetattr(&fd, OptionalActions::Now, &modes)?;
        let port = Self(File::from(fd));
        port.forget_input();
        Ok(port)
    }

    /// What is read and written over it.
    pub fn stream(&self) -> io::Result<Stream> {
        let receiver = pipe::Receiver::from_file_unchecked(self.0.try_clone()?)?;
        Ok(tokio::io::join(receiver, pipe::Sender::from_file_unchecked(self.0.try_clone()?)?))
    }

    /// Drops what came in since: the late answer to somebody else's question.
    pub fn forget_input(&self) {
        // A line that cannot be flushed fails the next read, which is told.
        let _ = rustix::termios::tcflush(&self.0, QueueSelector::IFlush);
    }
}

/// How long a line must be silent before a request: 3.5 characters, and 1.75 ms on fast lines (Modbus over Serial Line
/// V1.02, 2.5.1.1).
#[must_use]
pub fn silence(baud_rate: u32) -> Duration {
    // A character has 11 bits at most.
    Duration::from_micros(38_500_000 / u64::from(baud_rate.max(1))).max(Duration::from_micros(1750))
}
