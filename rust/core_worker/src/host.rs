//! The thread that speaks to the language above: it alone takes the GIL on the engine's behalf, so that nothing else in
//! the engine ever waits for Python.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;

use crate::model::HostEvent;

type Callback = Box<dyn Fn(HostEvent) + Send + Sync>;

enum Item {
    Event(HostEvent),
    /// Everything queued before it was delivered.
    Reached(Sender<()>),
    Stop,
}

/// Started with its first event.
pub struct HostThread {
    callback: Arc<Callback>,
    running: OnceLock<Sender<Item>>,
    handle: Mutex<Option<JoinHandle<()>>>,
}

impl HostThread {
    pub fn new(callback: Callback) -> Self {
        Self {
            callback: Arc::new(callback),
            running: OnceLock::new(),
            handle: Mutex::new(None),
        }
    }

    pub fn send(&self, event: HostEvent) {
        // After a stop nobody listens, and nobody is to be told.
        let _ = self.sender().send(Item::Event(event));
    }

    fn sender(&self) -> &Sender<Item> {
        self.running.get_or_init(|| {
            let (sender, receiver) = channel();
            let callback = Arc::clone(&self.callback);
            let handle = std::thread::Builder::new()
                .name("ray_rs-host".into())
                .spawn(move || deliver(&receiver, &callback))
                .expect("the process may start a thread");
            *self.handle.lock() = Some(handle);
            sender
        })
    }

    /// Waits until all events sent before have been delivered.
    pub fn flush(&self, timeout: Duration) {
        if self.running.get().is_none() {
            return;
        }
        let (sender, receiver) = channel();
        let _ = self.sender().send(Item::Reached(sender));
        let _ = receiver.recv_timeout(timeout);
    }

    /// Delivers what is queued, then ends the thread. It is not joined: it may be waiting for the GIL that the caller
    /// holds, and ends by itself.
    pub fn stop(&self) {
        if let Some(sender) = self.running.get() {
            let _ = sender.send(Item::Stop);
        }
        drop(self.handle.lock().take());
    }
}

fn deliver(receiver: &Receiver<Item>, callback: &Callback) {
    let mut tokens = Vec::new();
    while let Ok(item) = receiver.recv() {
        let mut item = Some(item);
        // Tokens that queued up meanwhile go up in one call: one GIL for all.
        while let Some(Item::Event(HostEvent::Ready(more))) = item {
            tokens.extend(more);
            item = receiver.try_recv().ok();
        }
        if !tokens.is_empty() {
            callback(HostEvent::Ready(std::mem::take(&mut tokens)));
        }
        match item {
            Some(Item::Event(event)) => callback(event),
            Some(Item::Reached(sender)) => {
                let _ = sender.send(());
            }
            Some(Item::Stop) => return,
            None => {}
        }
    }
}
