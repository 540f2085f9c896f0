//! A network between a worker and its broker that can be cut: connections stay, and nothing goes through.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

pub struct Network {
    /// Where the worker finds the broker.
    pub address: String,
    broker: Arc<OnceLock<String>>,
    is_cut: Arc<AtomicBool>,
}

impl Network {
    /// A network to a broker that is still to be named. It ends with the process.
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (broker, is_cut) = (Arc::new(OnceLock::<String>::new()), Arc::new(AtomicBool::new(false)));
        let (to, cut) = (broker.clone(), is_cut.clone());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Some(Ok(broker)) = to.get().map(TcpStream::connect) else { continue };
                for (from, to) in [(&client, &broker), (&broker, &client)] {
                    let (from, to, cut) = (from.try_clone().unwrap(), to.try_clone().unwrap(), cut.clone());
                    thread::spawn(move || carry(from, to, &cut));
                }
            }
        });
        Self { address, broker, is_cut }
    }

    pub fn lead_to(&self, broker: &str) {
        self.broker.set(broker.to_owned()).unwrap();
    }

    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    pub fn mend(&self) {
        self.is_cut.store(false, Ordering::Relaxed);
    }
}

/// Carries what comes from one side to the other until one of them is gone.
fn carry(mut from: TcpStream, mut to: TcpStream, cut: &AtomicBool) {
    let mut bytes = vec![0; 64 << 10];
    from.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    loop {
        if cut.load(Ordering::Relaxed) {
            thread::sleep(Duration::from_millis(20));
            continue;
        }
        match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => {
                if to.write_all(&bytes[..count]).is_err() {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    for side in [&from, &to] {
        // It may be gone by itself.
        let _ = side.shutdown(Shutdown::Both);
    }
}
