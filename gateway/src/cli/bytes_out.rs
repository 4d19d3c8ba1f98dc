//! What a program writes, on its way to ours: by a thread, so that a reader who takes nothing stops
//! nothing else.

use std::io::{self, Write};

use tokio::sync::{mpsc, oneshot};

/// Which of our two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stream {
    Out,
    Err,
}

/// Both.
#[derive(Debug)]
pub(super) struct Output {
    bytes: mpsc::Sender<(Stream, Vec<u8>)>,
    done: oneshot::Receiver<io::Result<()>>,
}

/// Nobody reads any more.
#[derive(Debug)]
pub(super) struct Closed;

impl Output {
    pub(super) fn start() -> Self {
        let (bytes, mut receiver) = mpsc::channel::<(Stream, Vec<u8>)>(16);
        let (finished, done) = oneshot::channel();
        std::thread::spawn(move || {
            let (mut out, mut err) = (io::stdout(), io::stderr());
            let result = loop {
                let Some((stream, bytes)) = receiver.blocking_recv() else { break Ok(()) };
                let to: &mut dyn Write = match stream {
                    Stream::Out => &mut out,
                    Stream::Err => &mut err,
                };
                if let Err(error) = to.write_all(&bytes).and_then(|()| to.flush()) {
                    break Err(error);
                }
            };
            drop(receiver);
            let _ = finished.send(result);
        });
        Self { bytes, done }
    }

    pub(super) async fn write(&self, stream: Stream, bytes: Vec<u8>) -> Result<(), Closed> {
        self.bytes.send((stream, bytes)).await.map_err(|_| Closed)
    }

    /// Waits until all of it is written.
    pub(super) async fn finish(self) -> Result<(), Closed> {
        drop(self.bytes);
        match self.done.await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Closed),
        }
    }
}
