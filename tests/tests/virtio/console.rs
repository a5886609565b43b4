//! A model of a virtio console of one port (virtio 1.2, 5.3).

use std::collections::VecDeque;

use virtio_drivers::PhysAddr;
use virtio_drivers::transport::DeviceType;

use crate::device::Model;
use crate::virtqueue::{Port, Result, Virtqueue};

#[derive(Default)]
pub(crate) struct Console {
    typed: VecDeque<u8>,
    shown: Vec<u8>,
    received_at: Option<PhysAddr>,
}

impl Console {
    /// Characters for the driver, as soon as it has posted a buffer.
    pub(crate) fn type_in(&mut self, text: &str) {
        self.typed.extend(text.bytes());
    }

    /// What the driver sent.
    pub(crate) fn shown(&self) -> String {
        String::from_utf8(self.shown.clone()).unwrap()
    }

    /// Where the buffer was into which it wrote last.
    pub(crate) fn received_at(&self) -> PhysAddr {
        self.received_at.unwrap()
    }

    fn receive(&mut self, port: &mut Port, queue: &mut Virtqueue) -> Result {
        while !self.typed.is_empty()
            && let Some(request) = queue.next(port)?
        {
            let mut written = 0;
            for part in &request.parts {
                let len = self.typed.len().min(usize::try_from(part.len).unwrap());
                let text: Vec<u8> = self.typed.drain(..len).collect();
                port.write(part.at, &text)?;
                self.received_at = Some(part.at);
                written += len;
            }
            queue.complete(port, &request, u32::try_from(written).unwrap())?;
        }
        Ok(())
    }

    fn transmit(&mut self, port: &mut Port, queue: &mut Virtqueue) -> Result {
        while let Some(request) = queue.next(port)? {
            for part in &request.parts {
                let mut text = vec![0; usize::try_from(part.len).unwrap()];
                port.read(part.at, &mut text)?;
                self.shown.extend(text);
            }
            queue.complete(port, &request, 0)?;
        }
        Ok(())
    }
}

impl Model for Console {
    const TYPE: DeviceType = DeviceType::Console;

    fn config(&self) -> Vec<u8> {
        // No feature that it offers has a field.
        Vec::new()
    }

    fn serve(&mut self, port: &mut Port, queues: &mut [Option<Virtqueue>]) -> Result {
        let [receive, transmit] = queues else {
            panic!("a console of one port has two queues");
        };
        if let Some(queue) = receive {
            self.receive(port, queue)?;
        }
        if let Some(queue) = transmit {
            self.transmit(port, queue)?;
        }
        Ok(())
    }
}
