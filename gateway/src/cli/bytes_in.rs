//! What is read from a file or from standard input, by a thread of its own.

use std::io::{self, Read};

use futures_util::Stream;
use futures_util::stream::unfold;
use qga_gateway::client::Bytes;
use tokio::sync::mpsc;

const CHUNK: usize = 256 << 10;

/// All of it, in chunks, as fast as they are taken. `seen` learns of each.
pub(super) fn chunks(
    mut reader: impl Read + Send + 'static,
    mut seen: impl FnMut(u64) + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(4);
    std::thread::spawn(move || {
        loop {
            let mut chunk = vec![0; CHUNK];
            let read = match reader.read(&mut chunk) {
                Ok(0) => return,
                Ok(n) => {
                    chunk.truncate(n);
                    seen(n as u64);
                    Ok(Bytes::from(chunk))
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let failed = read.is_err();
            if sender.blocking_send(read).is_err() || failed {
                return;
            }
        }
    });
    unfold(receiver, |mut receiver| async move {
        let chunk = receiver.recv().await?;
        Some((chunk, receiver))
    })
}
