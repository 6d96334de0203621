//! Bits of a scan and the Huffman codes in them (ITU-T T.81, annexes C and F).

use super::Fault;

/// Codes up to this many bits are found at once.
const FAST: u32 = 9;

/// A Huffman table.
#[derive(Clone)]
pub(super) struct Codes {
    /// By the next [`FAST`] bits: length of the code (0: longer) and its symbol.
    fast: Vec<(u8, u8)>,
    /// By length: the largest code, or −1.
    largest: [i32; 17],
    /// By length: what added to a code is the place of its symbol.
    offset: [i32; 17],
    symbols: Vec<u8>,
}

impl Codes {
    /// From the numbers of codes of 1 to 16 bits, and their symbols; `None` if they are no prefix code.
    pub(super) fn new(counts: &[u8], symbols: &[u8]) -> Option<Self> {
        let mut fast = vec![(0, 0); 1 << FAST];
        let (mut largest, mut offset) = ([-1; 17], [0; 17]);
        let (mut code, mut next) = (0i32, 0usize);
        for (length, count) in (1u32..=16).zip(counts) {
            offset[length as usize] = next as i32 - code;
            for _ in 0..*count {
                let symbol = *symbols.get(next)?;
                if length <= FAST {
                    let room = 1 << (FAST - length);
                    let first = code as usize * room;
                    fast.get_mut(first..first + room)?.fill((length as u8, symbol));
                }
                (code, next) = (code + 1, next + 1);
                largest[length as usize] = code - 1;
            }
            if code > 1 << length {
                return None;
            }
            code <<= 1;
        }
        Some(Self { fast, largest, offset, symbols: symbols.to_vec() })
    }
}

/// Reads the bits of a scan, up to the next marker.
pub(super) struct Bits<'a> {
    data: &'a [u8],
    /// Where the next byte is.
    at: usize,
    held: u64,
    count: u32,
    /// How many of the bits that are held or were taken lie beyond the end.
    beyond: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8], at: usize) -> Self {
        Self { data, at, held: 0, count: 0, beyond: 0 }
    }

    /// Where the scan's data were read up to; never beyond a marker.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    fn fill(&mut self) {
        while self.count <= 48 {
            let byte = match (self.data.get(self.at), self.data.get(self.at + 1)) {
                (Some(0xff), Some(0)) => {
                    self.at += 2;
                    0xff
                }
                (Some(0xff) | None, _) => {
                    self.beyond += 8;
                    0
                }
                (Some(byte), _) => {
                    self.at += 1;
                    *byte
                }
            };
            self.held = (self.held << 8) | u64::from(byte);
            self.count += 8;
        }
    }

    fn peek(&self, bits: u32) -> u32 {
        (self.held >> (self.count - bits)) as u32 & ((1 << bits) - 1)
    }

    /// The next bits, at most 16, as a number.
    pub(super) fn take(&mut self, bits: u32) -> i32 {
        if self.count < bits {
            self.fill();
        }
        let value = self.peek(bits);
        self.count -= bits;
        value as i32
    }

    /// A number of so many bits, at most 15, with its sign (F.2.2.1).
    pub(super) fn signed(&mut self, bits: u32) -> i32 {
        let value = self.take(bits);
        if bits > 0 && value < 1 << (bits - 1) { value - (1 << bits) + 1 } else { value }
    }

    /// The next symbol.
    pub(super) fn symbol(&mut self, codes: &Codes) -> Result<u8, Fault> {
        if self.count < 16 {
            self.fill();
        }
        let (length, symbol) = codes.fast[self.peek(FAST) as usize];
        if length > 0 {
            self.count -= u32::from(length);
            return Ok(symbol);
        }
        for length in FAST + 1..=16 {
            let code = self.peek(length) as i32;
            if code <= codes.largest[length as usize] {
                self.count -= length;
                let place = code + codes.offset[length as usize];
                return codes.symbols.get(place as usize).copied().ok_or_else(unknown);
            }
        }
        Err(unknown())
    }

    /// Refuses bits taken from beyond the end.
    pub(super) fn check(&self) -> Result<(), Fault> {
        if self.beyond > self.count {
            return Err(Fault::damaged("the data of a scan end too early"));
        }
        Ok(())
    }

    /// Goes behind the restart marker that must come now; `number` counts them from 0.
    pub(super) fn restart(&mut self, number: usize) -> Result<(), Fault> {
        while self.data.get(self.at..self.at + 2) == Some(&[0xff, 0xff]) {
            self.at += 1;
        }
        let wanted = 0xd0 + (number % 8) as u8;
        if self.data.get(self.at..self.at + 2) != Some(&[0xff, wanted]) {
            return Err(Fault::damaged("a restart marker is missing"));
        }
        *self = Self::new(self.data, self.at + 2);
        Ok(())
    }
}

fn unknown() -> Fault {
    Fault::damaged("a code that its table does not have")
}
