//! What calling a global gives: tensors, dicts, and records of whatever else was called.

use std::rc::Rc;

use super::global::Global;
use super::pickle::{Id, Object, Pickle, Result, Value};
use super::view::View;

impl Pickle {
    /// The members of a list or tuple.
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
        // `torch.Size` is a tuple with a class.
        let id = match self.get(id) {
            Value::Object(size) => self.list(size.arguments)?.first().copied().unwrap_or(id),
            _ => id,
        };
        let sizes: Option<Vec<usize>> = self.list(id)?.iter().map(one).collect();
        sizes.ok_or_else(|| "its pickle has a tensor whose sizes are no whole numbers".into())
    }

    /// `('storage', type, key, device, elements)`.
    pub(super) fn storage(&self, id: Id) -> Result<Value> {
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

    /// What stands for the result of a call.
    pub(super) fn call(&self, callee: Id, arguments: Id) -> Result<Value> {
        let list = self.list(arguments)?;
        let record = |class: &Rc<str>| Ok(Value::Object(Box::new(Object::new(class, arguments))));
        let global = match self.get(callee) {
            Value::Global(global) => global,
            // A record may stand for something that can be called, such as a bound method.
            Value::Object(object) => return record(&object.class),
            _ => return Err("its pickle calls what is no function".into()),
        };
        match global {
            Global::OrderedDict if list.is_empty() => Ok(Value::Dict(Vec::new())),
            Global::OrderedDict => {
                Err("its pickle fills an OrderedDict in a way of Python 2: save it again".into())
            }
            Global::RebuildTensor => self.tensor(list),
            Global::RebuildOfBytes => self.tensor_of_bytes(list),
            Global::RebuildParameter => self.parameter(list),
            // `(function, class, arguments, attributes)`.
            Global::RebuildFromType => match *list {
                [function, _, arguments, _] => match self.get(function) {
                    Value::Global(Global::RebuildTensor) => self.tensor(self.list(arguments)?),
                    Value::Global(Global::RebuildOfBytes) => {
                        self.tensor_of_bytes(self.list(arguments)?)
                    }
                    Value::Global(Global::RebuildParameter) => {
                        self.parameter(self.list(arguments)?)
                    }
                    _ => Err("its pickle rebuilds a tensor in an unknown way".into()),
                },
                _ => Err("its pickle rebuilds a tensor in an unknown way".into()),
            },
            Global::Opaque(class) => record(class),
            Global::Storage(_) | Global::Format(_) => {
                Err("its pickle calls a storage type or a number format".into())
            }
        }
    }

    /// `_rebuild_parameter(tensor, …)`.
    fn parameter(&self, list: &[Id]) -> Result<Value> {
        match list.first().map(|id| self.get(*id)) {
            Some(Value::Tensor(view)) => Ok(Value::Tensor(view.clone())),
            _ => Err("its pickle makes a parameter of what is no tensor".into()),
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

    /// `_rebuild_tensor_v3(storage, offset, shape, strides, requires_grad, hooks, format, …)`, whose
    /// storage counts bytes. The formats that are read have one.
    fn tensor_of_bytes(&self, list: &[Id]) -> Result<Value> {
        let format = match list.get(6).map(|id| self.get(*id)) {
            Some(Value::Global(Global::Format(format))) => *format,
            Some(Value::Global(Global::Opaque(name))) => {
                return Err(format!(
                    "its pickle has a tensor of `{name}`, a number format that is not read: convert it to float32, float16 or bfloat16"
                ));
            }
            _ => return Err("its pickle describes a tensor in an unknown way".into()),
        };
        match self.tensor(list)? {
            Value::Tensor(view) => {
                Ok(Value::Tensor(Rc::new(View { dtype: format, ..(*view).clone() })))
            }
            other => Ok(other),
        }
    }
}
