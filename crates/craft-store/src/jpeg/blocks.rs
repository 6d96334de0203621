//! The coefficients of one block of 8×8, as each kind of scan codes them (ITU-T T.81, F.2.2 and G.1.2).

use super::Fault;
use super::bits::{Bits, Codes};

/// Coefficients of a block, row by row.
pub(super) type Block = [i16; 64];

/// Places of the coefficients in the order in which they are coded.
#[rustfmt::skip]
pub(super) const ZIGZAG: [usize; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// Which coefficients a scan codes, and which bits of them.
#[derive(Clone, Copy)]
pub(super) struct Band {
    /// First coefficient, in coding order.
    pub(super) start: usize,
    /// Last one.
    pub(super) end: usize,
    /// Whether a bit is added to what earlier scans gave.
    pub(super) refines: bool,
    /// The lowest bit that this scan gives.
    pub(super) low: u32,
}

/// The difference of a block's mean from that of the block before it.
fn difference(bits: &mut Bits<'_>, dc: &Codes) -> Result<i32, Fault> {
    match bits.symbol(dc)? {
        size @ 0..=15 => Ok(bits.signed(u32::from(size))),
        _ => Err(Fault::damaged("a coefficient of more than 15 bits")),
    }
}

fn outside() -> Fault {
    Fault::damaged("a coefficient outside of its block")
}

/// All coefficients at once.
pub(super) fn sequential(
    bits: &mut Bits<'_>,
    (dc, ac): (&Codes, &Codes),
    last: &mut i32,
    block: &mut Block,
) -> Result<(), Fault> {
    *last = last.wrapping_add(difference(bits, dc)?);
    block[0] = *last as i16;
    let mut k = 1;
    while k < 64 {
        let (run, size) = run_and_size(bits.symbol(ac)?);
        match (run, size) {
            (15, 0) => k += 16,
            (_, 0) => break,
            _ => {
                k += run;
                *block.get_mut(*ZIGZAG.get(k).ok_or_else(outside)?).ok_or_else(outside)? =
                    bits.signed(size) as i16;
                k += 1;
            }
        }
    }
    Ok(())
}

fn run_and_size(symbol: u8) -> (usize, u32) {
    (usize::from(symbol >> 4), u32::from(symbol & 15))
}

/// The mean of a block in a progressive scan.
pub(super) fn mean(
    bits: &mut Bits<'_>,
    dc: Option<&Codes>,
    last: &mut i32,
    band: Band,
    block: &mut Block,
) -> Result<(), Fault> {
    match dc {
        Some(dc) => {
            *last = last.wrapping_add(difference(bits, dc)?);
            block[0] = (*last << band.low) as i16;
        }
        None => block[0] |= (bits.take(1) << band.low) as i16,
    }
    Ok(())
}

/// Other coefficients in a progressive scan. `blank` counts blocks to come that this scan says nothing
/// new of.
pub(super) fn band(
    bits: &mut Bits<'_>,
    ac: &Codes,
    blank: &mut u32,
    band: Band,
    block: &mut Block,
) -> Result<(), Fault> {
    if band.refines {
        return refine(bits, ac, blank, band, block);
    }
    if *blank > 0 {
        *blank -= 1;
        return Ok(());
    }
    let mut k = band.start;
    while k <= band.end {
        let (run, size) = run_and_size(bits.symbol(ac)?);
        match (run, size) {
            (15, 0) => k += 16,
            (_, 0) => {
                *blank = (1 << run) + bits.take(run as u32) as u32 - 1;
                break;
            }
            _ => {
                k += run;
                if k > band.end {
                    return Err(outside());
                }
                block[ZIGZAG[k]] = (bits.signed(size) << band.low) as i16;
                k += 1;
            }
        }
    }
    Ok(())
}

fn refine(
    bits: &mut Bits<'_>,
    ac: &Codes,
    blank: &mut u32,
    band: Band,
    block: &mut Block,
) -> Result<(), Fault> {
    let one = 1i16 << band.low;
    // One more bit of a coefficient that is known not to be 0.
    let more = |bits: &mut Bits<'_>, value: &mut i16| {
        if bits.take(1) == 1 && *value & one == 0 {
            *value = value.wrapping_add(if *value < 0 { -one } else { one });
        }
    };
    let mut k = band.start;
    if *blank == 0 {
        while k <= band.end {
            let (mut run, size) = run_and_size(bits.symbol(ac)?);
            let new = match (run, size) {
                (15, 0) => 0,
                (_, 0) => {
                    *blank = (1 << run) + bits.take(run as u32) as u32;
                    break;
                }
                _ if bits.take(1) == 1 => one,
                _ => -one,
            };
            while k <= band.end {
                let value = &mut block[ZIGZAG[k]];
                if *value != 0 {
                    more(bits, value);
                } else if run == 0 {
                    break;
                } else {
                    run -= 1;
                }
                k += 1;
            }
            if new != 0 {
                if k > band.end {
                    return Err(outside());
                }
                block[ZIGZAG[k]] = new;
            }
            k += 1;
        }
    }
    if *blank > 0 {
        for k in k..=band.end {
            let value = &mut block[ZIGZAG[k]];
            if *value != 0 {
                more(bits, value);
            }
        }
        *blank -= 1;
    }
    Ok(())
}
