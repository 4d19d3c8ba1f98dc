//! Where hostile guests can send without anybody being hurt: what they cost the machine by themselves.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::runtime::Builder;
use tokio::time::{sleep, timeout};

/// What makes each of them begin: a sync, and something that is none.
const REQUESTS: &[u8] = b"\xFF{\"execute\":\"guest-sync-delimited\",\"arguments\":{\"id\":7}}\n\
    {\"execute\":\"guest-ping\",\"id\":\"5e-1\"}\n";

/// How much is taken over one connection, what a line counts besides its bytes, how long it lasts, and
/// how soon the next one comes: as the gateway does it, or else they would be kept busier or less busy
/// here.
const MOST: usize = 4 << 20;
const LINE_BYTES: usize = 512;
const LASTS: Duration = Duration::from_secs(10);
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MOST: Duration = Duration::from_secs(30);

/// Takes what is sent at these sockets and looks at no more than line ends, for ever.
///
/// # Errors
/// There is no room for it.
pub fn drain(sockets: &[PathBuf]) -> Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build().context("starting a sink")?;
    runtime.block_on(async {
        let sinks: Vec<_> =
            sockets.iter().map(|socket| tokio::spawn(forever(socket.clone()))).collect();
        for sink in sinks {
            sink.await.context("a sink")?;
        }
        Ok(())
    })
}

async fn forever(socket: PathBuf) {
    let mut pause = PAUSE_FIRST;
    loop {
        // However it ends, there is a next one.
        drop(timeout(LASTS, once(&socket)).await);
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MOST);
    }
}

async fn once(socket: &Path) -> std::io::Result<()> {
    let mut stream = UnixStream::connect(socket).await?;
    stream.write_all(REQUESTS).await?;
    let (mut buffer, mut taken) = (vec![0; 64 << 10], 0);
    while taken < MOST {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => {
                let lines = buffer[..count].iter().filter(|&&byte| byte == b'\n').count();
                taken += count + lines * LINE_BYTES;
            }
        }
    }
    Ok(())
}
