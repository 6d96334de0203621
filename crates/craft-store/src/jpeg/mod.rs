//! Reads JPEGs as Pillow (libjpeg-turbo) does, to the bit: scores of reward models follow from pixels,
//! and decoders differ by several grey levels where chroma is interpolated.
//!
//! Written from ITU-T T.81 and JFIF: 8 bits, Huffman codes, sequential or progressive, in one scan or
//! more; grey, YCbCr, RGB, CMYK and YCCK.

mod bits;
mod blocks;
mod colour;
mod scan;
mod transform;

use bits::Codes;
use blocks::{Block, ZIGZAG};
use colour::{Plane, Space};

use crate::image::{MAX_SIDE, RgbImage};

/// Most scans; files have at most about a dozen.
const MAX_SCANS: usize = 500;

/// Why a JPEG is not read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is not what the standard says; what is wrong.
    Damaged(String),
    /// A kind that is not supported; which.
    Kind(String),
    /// Pixels across and down.
    TooLarge(usize, usize),
}

impl Fault {
    fn damaged(what: &str) -> Self {
        Self::Damaged(what.to_owned())
    }
}

struct Component {
    id: u8,
    /// Blocks of a unit of all components, across and down.
    factor: (usize, usize),
    table: usize,
    /// The quantisation table of its first scan.
    quantisation: Option<[u16; 64]>,
    /// Samples across and down that belong to the picture.
    size: (usize, usize),
    /// Blocks a row, whole units.
    blocks: usize,
    /// Of a progressive picture.
    coefficients: Vec<Block>,
    samples: Vec<u8>,
}

struct Frame {
    width: usize,
    height: usize,
    progressive: bool,
    /// Largest factors.
    factor: (usize, usize),
    /// Units across and down.
    units: (usize, usize),
    components: Vec<Component>,
    /// Blocks that scans may still go through.
    blocks_left: usize,
}

#[derive(Default)]
struct Tables {
    quantisation: [Option<[u16; 64]>; 4],
    dc: [Option<Codes>; 4],
    ac: [Option<Codes>; 4],
    restart: usize,
    jfif: bool,
    adobe: Option<u8>,
}

/// Decodes the bytes of a JPEG.
pub(crate) fn decode(bytes: &[u8]) -> Result<RgbImage, Fault> {
    let mut tables = Tables::default();
    let mut frame: Option<Frame> = None;
    let (mut at, mut scans) = (2, 0);
    loop {
        let Some(marker) = next_marker(bytes, &mut at) else {
            // Without an end a progressive picture may lack scans.
            if frame.as_ref().is_some_and(|f| !f.progressive && f.complete()) {
                break;
            }
            return Err(Fault::damaged("it ends before its end marker"));
        };
        match marker {
            0xd9 => break,
            0x01 | 0xd0..=0xd8 => continue,
            _ => {}
        }
        let segment = segment(bytes, &mut at)?;
        match marker {
            0xc0..=0xc2 if frame.is_none() => frame = Some(Frame::read(segment, marker == 0xc2)?),
            0xc0..=0xc2 => return Err(Fault::damaged("it has two frames")),
            0xc4 => tables.read_codes(segment)?,
            0xc3 | 0xc5..=0xcf => {
                let kind = match marker {
                    0xc3 => "lossless coding",
                    0xc9 | 0xca | 0xcc => "arithmetic coding",
                    _ => "hierarchical coding",
                };
                return Err(Fault::Kind(kind.to_owned()));
            }
            0xda => {
                scans += 1;
                let frame =
                    frame.as_mut().ok_or(Fault::damaged("a scan comes before its frame"))?;
                if scans > MAX_SCANS {
                    return Err(Fault::Damaged(format!("it has more than {MAX_SCANS} scans")));
                }
                at = frame.scan(segment, &tables, bytes, at)?;
            }
            0xdb => tables.read_quantisation(segment)?,
            0xdd => tables.restart = number(segment, 0).ok_or_else(short)?,
            0xe0 => tables.jfif |= segment.starts_with(b"JFIF\0"),
            0xee if segment.starts_with(b"Adobe") => tables.adobe = segment.get(11).copied(),
            _ => {}
        }
    }
    let frame = frame.ok_or(Fault::damaged("it has no picture"))?;
    if !frame.complete() {
        return Err(Fault::damaged("a component has no scan"));
    }
    let space = tables.space(&frame)?;
    frame.finish(space)
}

fn short() -> Fault {
    Fault::damaged("a segment is too short")
}

/// A number of two bytes.
fn number(bytes: &[u8], at: usize) -> Option<usize> {
    Some(usize::from(*bytes.get(at)?) << 8 | usize::from(*bytes.get(at + 1)?))
}

/// The next marker, whatever lies before it.
fn next_marker(bytes: &[u8], at: &mut usize) -> Option<u8> {
    loop {
        match bytes.get(*at..*at + 2)? {
            [0xff, marker @ 0x01..=0xfe] => {
                *at += 2;
                return Some(*marker);
            }
            _ => *at += 1,
        }
    }
}

/// What follows a marker, without its length.
fn segment<'a>(bytes: &'a [u8], at: &mut usize) -> Result<&'a [u8], Fault> {
    let length = number(bytes, *at).ok_or_else(short)?;
    let whole = bytes.get(*at + 2..*at + length).ok_or_else(short)?;
    *at += length;
    Ok(whole)
}

impl Tables {
    fn read_codes(&mut self, mut segment: &[u8]) -> Result<(), Fault> {
        while let [class, rest @ ..] = segment {
            let counts = rest.get(..16).ok_or_else(short)?;
            let total: usize = counts.iter().map(|c| usize::from(*c)).sum();
            let symbols = rest.get(16..16 + total).ok_or_else(short)?;
            let codes = Codes::new(counts, symbols);
            let codes = codes.ok_or(Fault::damaged("a Huffman table that is no code"))?;
            let kind = if class >> 4 == 0 { &mut self.dc } else { &mut self.ac };
            let slot = kind.get_mut(usize::from(class & 15));
            *slot.ok_or(Fault::damaged("a Huffman table beyond the fourth"))? = Some(codes);
            segment = &rest[16 + total..];
        }
        Ok(())
    }

    fn read_quantisation(&mut self, mut segment: &[u8]) -> Result<(), Fault> {
        while let [kind, rest @ ..] = segment {
            let wide = usize::from(kind >> 4 != 0);
            let values = rest.get(..64 << wide).ok_or_else(short)?;
            let mut table = [0u16; 64];
            for (i, place) in ZIGZAG.iter().enumerate() {
                table[*place] = match wide {
                    0 => u16::from(values[i]),
                    _ => u16::from_be_bytes([values[2 * i], values[2 * i + 1]]),
                };
            }
            let slot = self.quantisation.get_mut(usize::from(kind & 15));
            *slot.ok_or(Fault::damaged("a quantisation table beyond the fourth"))? = Some(table);
            segment = &rest[64 << wide..];
        }
        Ok(())
    }

    /// What the components mean, by the rules of libjpeg.
    fn space(&self, frame: &Frame) -> Result<Space, Fault> {
        let ids: Vec<u8> = frame.components.iter().map(|c| c.id).collect();
        match (&ids[..], self.jfif, self.adobe) {
            ([_], ..) => Ok(Space::Grey),
            ([_, _, _], false, Some(0)) | ([b'R', b'G', b'B'], false, None) => Ok(Space::Rgb),
            ([_, _, _], ..) => Ok(Space::Ycc),
            ([_, _, _, _], _, None | Some(0)) => Ok(Space::Cmyk),
            ([_, _, _, _], ..) => Ok(Space::Ycck),
            _ => Err(Fault::Kind(format!("{} components", ids.len()))),
        }
    }
}

impl Frame {
    fn read(segment: &[u8], progressive: bool) -> Result<Self, Fault> {
        let [depth, _, _, _, _, count, rest @ ..] = segment else { return Err(short()) };
        if *depth != 8 {
            return Err(Fault::Kind(format!("{depth} bits a sample")));
        }
        let (height, width) = (number(segment, 1).unwrap_or(0), number(segment, 3).unwrap_or(0));
        if width == 0 || height == 0 {
            return Err(Fault::damaged("it has no size"));
        }
        if width.max(height) > MAX_SIDE as usize {
            return Err(Fault::TooLarge(width, height));
        }
        let count = usize::from(*count);
        if !matches!(count, 1 | 3 | 4) {
            return Err(Fault::Kind(format!("{count} components")));
        }
        let parts = rest.get(..3 * count).ok_or_else(short)?.chunks_exact(3);
        let factors = |part: &[u8]| (usize::from(part[1] >> 4), usize::from(part[1] & 15));
        let largest = parts.clone().map(factors).fold((1, 1), |a, b| (a.0.max(b.0), a.1.max(b.1)));
        let units = (width.div_ceil(8 * largest.0), height.div_ceil(8 * largest.1));
        let mut components = Vec::with_capacity(count);
        for part in parts {
            let factor = factors(part);
            if ![factor.0, factor.1].iter().all(|f| (1..=4).contains(f)) {
                return Err(Fault::damaged("a sampling factor is not 1 to 4"));
            }
            if largest.0 % factor.0 != 0 || largest.1 % factor.1 != 0 {
                return Err(Fault::Kind("components of sizes in no whole ratio".to_owned()));
            }
            let blocks = (units.0 * factor.0, units.1 * factor.1);
            let area = blocks.0 * blocks.1;
            components.push(Component {
                id: part[0],
                factor,
                table: usize::from(part[2]),
                quantisation: None,
                size: (
                    (width * factor.0).div_ceil(largest.0),
                    (height * factor.1).div_ceil(largest.1),
                ),
                blocks: blocks.0,
                coefficients: if progressive { vec![[0; 64]; area] } else { Vec::new() },
                // A progressive picture gets its samples when all its coefficients are there.
                samples: if progressive { Vec::new() } else { vec![0; area * 64] },
            });
        }
        let blocks_left = scan::allowance(units, &components);
        Ok(Self { width, height, progressive, factor: largest, units, components, blocks_left })
    }

    fn complete(&self) -> bool {
        self.components.iter().all(|c| c.quantisation.is_some())
    }

    fn finish(self, space: Space) -> Result<RgbImage, Fault> {
        let (width, height, largest) = (self.width, self.height, self.factor);
        let planes: Vec<Plane> = self
            .components
            .into_iter()
            .map(|mut component| {
                let coefficients = std::mem::take(&mut component.coefficients);
                if self.progressive {
                    component.samples = vec![0; coefficients.len() * 64];
                }
                for (i, block) in coefficients.iter().enumerate() {
                    component.put((i % component.blocks, i / component.blocks), block);
                }
                Plane {
                    width: component.size.0,
                    height: component.size.1,
                    stride: component.blocks * 8,
                    samples: component.samples,
                    across: largest.0 / component.factor.0,
                    down: largest.1 / component.factor.1,
                }
            })
            .collect();
        let data = colour::rgb(&planes, space, width, height);
        RgbImage::new(width, height, data).ok_or(Fault::TooLarge(width, height))
    }
}

impl Component {
    fn coefficients_at(&mut self, (column, line): (usize, usize)) -> &mut Block {
        &mut self.coefficients[line * self.blocks + column]
    }

    /// Keeps the samples of a block.
    fn put(&mut self, (column, line): (usize, usize), block: &Block) {
        let Some(quantisation) = &self.quantisation else { return };
        let stride = self.blocks * 8;
        let samples = transform::samples(block, quantisation);
        for (y, row) in samples.chunks_exact(8).enumerate() {
            let start = (line * 8 + y) * stride + column * 8;
            self.samples[start..start + 8].copy_from_slice(row);
        }
    }
}
