//! A serial line as a stream of bytes.
//!
//! The kernel's terminal calls only: the usual libraries for them bring licences that this project does not take.

use std::fs::File;
use std::io;

use rustix::fs::{Mode, OFlags};
use rustix::termios::{ControlModes, OptionalActions, QueueSelector};
use tokio::io::Join;
use tokio::net::unix::pipe;

use crate::settings::{Parity, Serial};

/// Both ways of a line. Tokio waits for a terminal's file as it does for a pipe's, and these are its types for files that
/// somebody else opened.
pub(crate) type Stream = Join<pipe::Receiver, pipe::Sender>;

/// Opens and sets up a line. What came in before is dropped: late answers to whoever had the line then.
pub(crate) fn open(line: &Serial) -> io::Result<Stream> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open(line.path.as_str(), flags, Mode::empty())?;
    let mut modes = rustix::termios::tcgetattr(&fd)?;
    modes.make_raw();
    modes.set_speed(line.baud)?;
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
    // A line that cannot be flushed fails the next read, which is told.
    let _ = rustix::termios::tcflush(&fd, QueueSelector::IFlush);
    let file = File::from(fd);
    let receiver = pipe::Receiver::from_file_unchecked(file.try_clone()?)?;
    Ok(tokio::io::join(receiver, pipe::Sender::from_file_unchecked(file)?))
}
