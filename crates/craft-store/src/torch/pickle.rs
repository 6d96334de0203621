//! A pickle interpreter that can only build data: numbers, texts, lists, dicts and tensor views.
//!
//! A pickle is a program for a stack machine whose `GLOBAL` and `REDUCE` operations call any Python
//! function. Here a global is a word of the list in [`known`], and calling one either describes a
//! tensor or makes an inert value; everything else is refused by name. Nothing is executed.
//! Source: operations of CPython's `pickletools`, protocols 2 to 4.

use std::collections::HashMap;
use std::rc::Rc;

use safetensors::Dtype;

type Result<T> = std::result::Result<T, String>;

/// Most values of a pickle; a large checkpoint has a few hundred thousand.
const MAX_VALUES: usize = 2_000_000;

/// Place of a value in the arena.
pub(super) type Id = usize;

/// A view into a storage, in elements.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct View {
    pub(super) storage: Rc<str>,
    pub(super) dtype: Dtype,
    /// Elements of the storage.
    pub(super) stored: u64,
    pub(super) offset: u64,
    pub(super) shape: Vec<usize>,
    pub(super) strides: Vec<usize>,
}

/// What may be called.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Dtype),
    /// Has no meaning here: calling it gives a value without content.
    Inert,
}

/// A value.
#[derive(Debug, Clone)]
pub(super) enum Value {
    None,
    Int(i64),
    Text(Rc<str>),
    /// Lists and tuples.
    List(Vec<Id>),
    Dict(Vec<(Id, Id)>),
    Tensor(Rc<View>),
    /// A number with a fraction, bytes, an object of a training program.
    Other,
    Global(Global),
    Storage(Rc<str>, Dtype, u64),
}

fn known(module: &str, name: &str) -> Result<Global> {
    let storage = |name: &str| {
        Some(match name {
            "DoubleStorage" => Dtype::F64,
            "FloatStorage" => Dtype::F32,
            "HalfStorage" => Dtype::F16,
            "BFloat16Storage" => Dtype::BF16,
            "LongStorage" => Dtype::I64,
            "IntStorage" => Dtype::I32,
            "ShortStorage" => Dtype::I16,
            "CharStorage" => Dtype::I8,
            "ByteStorage" => Dtype::U8,
            "BoolStorage" => Dtype::BOOL,
            _ => return None,
        })
    };
    match (module, name) {
        ("collections", "OrderedDict") => Ok(Global::OrderedDict),
        ("torch._utils", "_rebuild_tensor_v2") => Ok(Global::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => Ok(Global::RebuildParameter),
        ("torch", "Size") | ("numpy", "dtype") | ("_codecs", "encode") => Ok(Global::Inert),
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Ok(Global::Inert),
        // Lightning's checkpoints of Stable Diffusion name it as a key.
        ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint") => Ok(Global::Inert),
        ("torch", name) if let Some(dtype) = storage(name) => Ok(Global::Storage(dtype)),
        _ => Err(format!(
            "its pickle asks for `{module}.{name}`, which is not needed to rebuild tensors: it was refused and nothing was run; if you trust the file, load it with PyTorch and save its state_dict, best as safetensors"
        )),
    }
}

/// The values of a pickle.
#[derive(Debug, Default)]
pub(super) struct Pickle {
    values: Vec<Value>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn take(&mut self, count: u64) -> Result<&'a [u8]> {
        let cut = "its pickle ends in the middle: the file is damaged";
        let (head, rest) =
            usize::try_from(count).ok().and_then(|n| self.0.split_at_checked(n)).ok_or(cut)?;
        self.0 = rest;
        Ok(head)
    }

    fn number(&mut self, bytes: u64) -> Result<u64> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    fn line(&mut self) -> Result<&'a str> {
        let end = self.0.iter().position(|b| *b == b'\n').unwrap_or(self.0.len());
        let line = self.take(end as u64)?;
        self.take(1)?;
        std::str::from_utf8(line).map_err(|_| "its pickle holds a name that is not UTF-8".into())
    }

    fn text(&mut self, bytes: u64) -> Result<Value> {
        let text = std::str::from_utf8(self.take(bytes)?);
        Ok(Value::Text(text.map_err(|_| "its pickle holds a text that is not UTF-8")?.into()))
    }
}

impl Pickle {
    /// Runs a pickle. Returns the values and the place of the result.
    pub(super) fn run(bytes: &[u8]) -> Result<(Self, Id)> {
        let mut this = Self::default();
        let mut input = Input(bytes);
        loop {
            let op = input.take(1)?[0];
            if op == b'.' {
                let top = this.pop()?;
                return Ok((this, top));
            }
            this.step(op, &mut input)?;
        }
    }

    /// A value.
    pub(super) fn get(&self, id: Id) -> &Value {
        &self.values[id]
    }

    fn push(&mut self, value: Value) -> Result<()> {
        if self.values.len() >= MAX_VALUES {
            return Err(format!("its pickle makes more than {MAX_VALUES} values"));
        }
        self.stack.push(self.values.len());
        self.values.push(value);
        Ok(())
    }

    fn pop(&mut self) -> Result<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("its pickle takes from an empty stack: the file is damaged".into());
        }
        self.stack.pop().ok_or_else(|| "its pickle takes from an empty stack".into())
    }

    fn since_mark(&mut self) -> Result<Vec<Id>> {
        let mark = self.marks.pop().ok_or("its pickle lacks a mark: the file is damaged")?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, count: usize) -> Result<()> {
        let mut items = Vec::new();
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Value::List(items))
    }

    fn top(&self) -> Result<Id> {
        self.stack.last().copied().ok_or_else(|| "its pickle uses an empty stack".into())
    }

    fn append(&mut self, items: Vec<Id>) -> Result<()> {
        let top = self.top()?;
        match &mut self.values[top] {
            Value::List(list) => list.extend(items),
            Value::Other => {}
            _ => return Err("its pickle appends to what is no list".into()),
        }
        Ok(())
    }

    fn set(&mut self, items: Vec<Id>) -> Result<()> {
        let top = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match &mut self.values[top] {
            Value::Dict(dict) if rest.is_empty() => dict.extend(pairs.iter().map(|p| (p[0], p[1]))),
            Value::Other => {}
            _ => return Err("its pickle sets an item of what is no dict".into()),
        }
        Ok(())
    }

    fn step(&mut self, op: u8, input: &mut Input<'_>) -> Result<()> {
        match op {
            0x80 => {
                let version = input.number(1)?;
                if !(2..=5).contains(&version) {
                    return Err(format!("its pickle has protocol {version}: expected 2 to 5"));
                }
            }
            0x95 => drop(input.number(8)?),
            b'}' => self.push(Value::Dict(Vec::new()))?,
            b']' | b')' => self.push(Value::List(Vec::new()))?,
            b'(' => {
                if self.marks.len() >= MAX_VALUES {
                    return Err("its pickle sets too many marks".into());
                }
                self.marks.push(self.stack.len());
            }
            b't' | b'l' => {
                let items = self.since_mark()?;
                self.push(Value::List(items))?;
            }
            0x85..=0x87 => self.tuple(usize::from(op - 0x84))?,
            b'N' => self.push(Value::None)?,
            0x88 | 0x89 => self.push(Value::Int(i64::from(op == 0x88)))?,
            b'J' => {
                let value = input.number(4)? as u32;
                self.push(Value::Int(i64::from(value.cast_signed())))?;
            }
            b'K' => self.integer(input, 1)?,
            b'M' => self.integer(input, 2)?,
            0x8a => {
                let bytes = input.number(1)?;
                if bytes > 8 {
                    input.take(bytes)?;
                    return self.push(Value::Other);
                }
                let value = input.number(bytes)?.cast_signed();
                let unused = 64 - 8 * bytes as u32;
                self.push(Value::Int(if bytes == 0 { 0 } else { value << unused >> unused }))?;
            }
            b'G' => {
                input.take(8)?;
                self.push(Value::Other)?;
            }
            b'X' | b'T' => self.string(op, input, 4)?,
            0x8c | b'U' => self.string(op, input, 1)?,
            b'B' | b'C' => {
                let bytes = input.number(if op == b'B' { 4 } else { 1 })?;
                input.take(bytes)?;
                self.push(Value::Other)?;
            }
            b'q' | b'r' => {
                let place = input.number(if op == b'q' { 1 } else { 4 })?;
                self.remember(place)?;
            }
            0x94 => self.remember(self.memo.len() as u64)?,
            b'h' | b'j' => {
                let place = input.number(if op == b'h' { 1 } else { 4 })?;
                let id = self.memo.get(&place).ok_or("its pickle recalls what it never kept")?;
                if self.stack.len() >= MAX_VALUES {
                    return Err(format!("its pickle stacks more than {MAX_VALUES} values"));
                }
                self.stack.push(*id);
            }
            b'0' => drop(self.pop()?),
            b'1' => drop(self.since_mark()?),
            b'a' => {
                let item = self.pop()?;
                self.append(vec![item])?;
            }
            b'e' => {
                let items = self.since_mark()?;
                self.append(items)?;
            }
            b's' => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set(vec![key, value])?;
            }
            b'u' => {
                let items = self.since_mark()?;
                self.set(items)?;
            }
            b'c' => {
                let (module, name) = (input.line()?, input.line()?);
                self.push(Value::Global(known(module, name)?))?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(module), Value::Text(name)) = (self.get(module), self.get(name))
                else {
                    return Err("its pickle asks for a global without a name".into());
                };
                let global = known(module, name)?;
                self.push(Value::Global(global))?;
            }
            b'R' | 0x81 => {
                let (arguments, callee) = (self.pop()?, self.pop()?);
                let value = self.call(callee, arguments)?;
                self.push(value)?;
            }
            // Attributes of an OrderedDict (`_metadata` of a state_dict) carry no tensors.
            b'b' => {
                self.pop()?;
                let top = self.top()?;
                if !matches!(self.get(top), Value::Dict(_) | Value::Other) {
                    return Err("its pickle sets attributes of what is no dict".into());
                }
            }
            b'Q' => {
                let id = self.pop()?;
                let value = self.storage(id)?;
                self.push(value)?;
            }
            other => {
                return Err(format!(
                    "its pickle has operation 0x{other:02x}, which torch.save does not use to write tensors; the file is damaged or of another program"
                ));
            }
        }
        Ok(())
    }

    fn integer(&mut self, input: &mut Input<'_>, bytes: u64) -> Result<()> {
        let value = input.number(bytes)?.cast_signed();
        self.push(Value::Int(value))
    }

    fn string(&mut self, op: u8, input: &mut Input<'_>, bytes: u64) -> Result<()> {
        let size = input.number(bytes)?;
        // `U` and `T` are byte strings of Python 2: text if they are UTF-8.
        let value = if matches!(op, b'U' | b'T') {
            let text = std::str::from_utf8(input.take(size)?).ok();
            text.map_or(Value::Other, |text| Value::Text(text.into()))
        } else {
            input.text(size)?
        };
        self.push(value)
    }

    fn remember(&mut self, place: u64) -> Result<()> {
        let top = self.top()?;
        if self.memo.len() >= MAX_VALUES {
            return Err(format!("its pickle keeps more than {MAX_VALUES} values"));
        }
        self.memo.insert(place, top);
        Ok(())
    }

    fn list(&self, id: Id) -> Result<&[Id]> {
        match self.get(id) {
            Value::List(items) => Ok(items),
            _ => Err("its pickle has another value where a tuple should be".into()),
        }
    }

    fn sizes(&self, id: Id) -> Result<Vec<usize>> {
        let one = |id: &Id| match self.get(*id) {
            Value::Int(n) => usize::try_from(*n).ok(),
            _ => None,
        };
        let sizes: Option<Vec<usize>> = self.list(id)?.iter().map(one).collect();
        sizes.ok_or_else(|| "its pickle has a tensor whose sizes are no whole numbers".into())
    }

    /// `('storage', type, key, device, elements)`.
    fn storage(&self, id: Id) -> Result<Value> {
        let wrong = || "its pickle describes a storage in an unknown way".to_owned();
        let &[word, kind, key, _, count] = self.list(id)? else { return Err(wrong()) };
        match (self.get(word), self.get(kind), self.get(key), self.get(count)) {
            (
                Value::Text(word),
                Value::Global(Global::Storage(dtype)),
                Value::Text(key),
                Value::Int(count),
            ) if &**word == "storage" => {
                let count = u64::try_from(*count).map_err(|_| wrong())?;
                Ok(Value::Storage(key.clone(), *dtype, count))
            }
            _ => Err(wrong()),
        }
    }

    fn call(&self, callee: Id, arguments: Id) -> Result<Value> {
        let Value::Global(global) = self.get(callee) else {
            return Err("its pickle calls what is no function".into());
        };
        let list = self.list(arguments)?;
        match global {
            Global::OrderedDict if list.is_empty() => Ok(Value::Dict(Vec::new())),
            Global::OrderedDict => {
                Err("its pickle fills an OrderedDict in a way of Python 2: save it again".into())
            }
            Global::RebuildTensor => self.tensor(list),
            Global::RebuildParameter => match list.first().map(|id| self.get(*id)) {
                Some(Value::Tensor(view)) => Ok(Value::Tensor(view.clone())),
                _ => Err("its pickle makes a parameter of what is no tensor".into()),
            },
            Global::Inert => Ok(Value::Other),
            Global::Storage(_) => Err("its pickle calls a storage type".into()),
        }
    }

    /// `_rebuild_tensor_v2(storage, offset, shape, strides, …)`.
    fn tensor(&self, list: &[Id]) -> Result<Value> {
        let wrong = "its pickle describes a tensor in an unknown way";
        let [storage, offset, shape, strides, ..] = list else { return Err(wrong.into()) };
        let (Value::Storage(key, dtype, stored), Value::Int(offset)) =
            (self.get(*storage), self.get(*offset))
        else {
            return Err(wrong.into());
        };
        let (shape, strides) = (self.sizes(*shape)?, self.sizes(*strides)?);
        let offset = u64::try_from(*offset).map_err(|_| wrong)?;
        let view =
            View { storage: key.clone(), dtype: *dtype, stored: *stored, offset, shape, strides };
        view.span()?;
        Ok(Value::Tensor(Rc::new(view)))
    }
}

impl View {
    /// Number of elements.
    pub(super) fn count(&self) -> Option<u64> {
        self.shape.iter().try_fold(1u64, |n, s| n.checked_mul(*s as u64))
    }

    /// First element and the one after the last, checked against the storage. A view never has more
    /// elements than its storage, so that a small file cannot ask for much memory.
    pub(super) fn span(&self) -> Result<(u64, u64)> {
        let out = || {
            format!(
                "a tensor of shape {:?}, strides {:?} and offset {} does not fit its storage of {} elements",
                self.shape, self.strides, self.offset, self.stored
            )
        };
        let count = self.count().ok_or_else(out)?;
        if self.shape.len() != self.strides.len() || count > self.stored || self.shape.len() > 16 {
            return Err(out());
        }
        if count == 0 {
            return Ok((0, 0));
        }
        let mut last = self.offset;
        for (size, stride) in self.shape.iter().zip(&self.strides) {
            let step = (*size as u64 - 1).checked_mul(*stride as u64).ok_or_else(out)?;
            last = last.checked_add(step).ok_or_else(out)?;
        }
        if last >= self.stored { Err(out()) } else { Ok((self.offset, last + 1)) }
    }

    /// Copies the view's elements of `size` bytes in row-major order out of the bytes of its span.
    pub(super) fn gather(&self, span: Vec<u8>, size: usize) -> Vec<u8> {
        let plain: usize = self.shape.iter().product();
        let mut next = 1;
        let dense = self.shape.iter().zip(&self.strides).rev().all(|(n, stride)| {
            let fits = *n == 1 || *stride == next;
            next *= n;
            fits
        });
        if dense || span.is_empty() {
            return span;
        }
        let mut out = Vec::with_capacity(plain * size);
        let mut index = vec![0usize; self.shape.len()];
        for _ in 0..plain {
            let at: usize = index.iter().zip(&self.strides).map(|(i, s)| i * s).sum();
            out.extend_from_slice(&span[at * size..(at + 1) * size]);
            for axis in (0..index.len()).rev() {
                index[axis] += 1;
                if index[axis] < self.shape[axis] {
                    break;
                }
                index[axis] = 0;
            }
        }
        out
    }
}
