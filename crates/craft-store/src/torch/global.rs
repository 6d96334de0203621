//! Names that a pickle asks for, and what stands for them here. Nothing is ever imported or run.
//!
//! Few names mean something: those by which tensors are described. Names that no saved network needs and
//! that only harm could want are refused, so that nobody takes the file for a harmless one. All others,
//! the classes of modules, configs and callbacks, are names of opaque records.

use std::rc::Rc;

use safetensors::Dtype;

use super::pickle::Result;

/// What may be called.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Global {
    OrderedDict,
    RebuildTensor,
    /// A tensor of a number format younger than typed storages, over bytes.
    RebuildOfBytes,
    /// Such a number format.
    Format(Dtype),
    RebuildParameter,
    /// A tensor of a class of its own, or with attributes.
    RebuildFromType,
    Storage(Dtype),
    /// Calling it gives a record of its name and its arguments.
    Opaque(Rc<str>),
}

/// Modules that reach the system, other programs, the network or code, and those that read pickles.
const HARMFUL: [&str; 44] = [
    "os",
    "posix",
    "nt",
    "posixpath",
    "ntpath",
    "subprocess",
    "_posixsubprocess",
    "sys",
    "shutil",
    "socket",
    "_socket",
    "ssl",
    "pty",
    "ctypes",
    "_ctypes",
    "cffi",
    "importlib",
    "imp",
    "zipimport",
    "pkgutil",
    "runpy",
    "codeop",
    "pdb",
    "bdb",
    "cProfile",
    "timeit",
    "webbrowser",
    "pickle",
    "_pickle",
    "cPickle",
    "marshal",
    "shelve",
    "popen2",
    "requests",
    "urllib",
    "urllib2",
    "httplib",
    "http",
    "ftplib",
    "smtplib",
    "telnetlib",
    "asyncio",
    "pip",
    "atexit",
];

/// Python's own functions that run code, load it or reach the system.
const HARMFUL_BUILTINS: [&str; 16] = [
    "eval",
    "exec",
    "execfile",
    "compile",
    "open",
    "file",
    "input",
    "raw_input",
    "breakpoint",
    "globals",
    "locals",
    "vars",
    "setattr",
    "delattr",
    "apply",
    "reload",
];

/// Functions of harmless modules that load code, run it or build it.
const HARMFUL_FUNCTIONS: [(&str, &str); 17] = [
    ("torch", "load"),
    ("torch.serialization", "load"),
    ("torch.storage", "_load_from_bytes"),
    ("torch.jit", "load"),
    ("numpy", "load"),
    ("joblib", "load"),
    ("pandas", "read_pickle"),
    ("io", "open"),
    ("_io", "open"),
    ("_io", "FileIO"),
    ("types", "CodeType"),
    ("types", "FunctionType"),
    ("commands", "getoutput"),
    ("commands", "getstatusoutput"),
    ("platform", "popen"),
    ("code", "InteractiveInterpreter"),
    ("code", "interact"),
];

/// Packages whose every function loads or compiles code.
const HARMFUL_PACKAGES: [&str; 4] =
    ["torch.hub", "torch.utils.cpp_extension", "numpy.testing", "numpy.f2py"];

/// The meaning of a name.
pub(super) fn known(module: &str, name: &str) -> Result<Global> {
    match (module, name) {
        ("collections", "OrderedDict") => Ok(Global::OrderedDict),
        ("torch._utils", "_rebuild_tensor_v2") => Ok(Global::RebuildTensor),
        ("torch._utils", "_rebuild_tensor_v3") => Ok(Global::RebuildOfBytes),
        ("torch.storage", "UntypedStorage") => Ok(Global::Storage(Dtype::U8)),
        ("torch", "float8_e4m3fn") => Ok(Global::Format(Dtype::F8_E4M3)),
        ("torch", "float8_e5m2") => Ok(Global::Format(Dtype::F8_E5M2)),
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
            Ok(Global::RebuildParameter)
        }
        ("torch._tensor", "_rebuild_from_type_v2") => Ok(Global::RebuildFromType),
        ("torch", name) if let Some(dtype) = storage(name) => Ok(Global::Storage(dtype)),
        ("torch._utils" | "torch._tensor", name) if name.starts_with("_rebuild_") => Err(format!(
            "its pickle rebuilds a tensor by `{module}.{name}` (a sparse, quantised or other special one): expected plain tensors; save it with `to_dense()` or `dequantize()`"
        )),
        _ if is_harmful(module, name) => Err(format!(
            "its pickle asks for `{module}.{name}`, which no saved network needs and which can do harm: it was refused and nothing was run; get the weights from another source, best as safetensors, and do not open this file with other programs"
        )),
        _ => Ok(Global::Opaque(format!("{module}.{name}").into())),
    }
}

fn storage(name: &str) -> Option<Dtype> {
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
}

fn is_harmful(module: &str, name: &str) -> bool {
    let root = module.split('.').next().unwrap_or_default();
    let inside = |package: &&str| {
        module.strip_prefix(*package).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    // Later protocols reach into a module's own imports by a path of names.
    let reaches = |part: &str| HARMFUL.contains(&part) || part.starts_with("__");
    HARMFUL.contains(&root)
        || HARMFUL_PACKAGES.iter().any(inside)
        || HARMFUL_FUNCTIONS.contains(&(module, name))
        || matches!(root, "builtins" | "__builtin__")
            && (HARMFUL_BUILTINS.contains(&name) || name.starts_with("__"))
        || name.contains('.') && name.split('.').any(reaches)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn harm_is_refused_by_name_and_classes_are_opaque() {
        for (module, name) in [
            ("os", "system"),
            ("posix", "system"),
            ("subprocess", "Popen"),
            ("builtins", "eval"),
            ("__builtin__", "__import__"),
            ("importlib.metadata", "version"),
            ("torch.utils.cpp_extension", "load_inline"),
            ("torch.storage", "_load_from_bytes"),
            ("pathlib", "os.system"),
            ("collections", "abc.sys.modules"),
            ("torch", "nn.Module.__init__.__globals__"),
            ("types", "CodeType"),
        ] {
            let message = known(module, name).unwrap_err();
            assert!(message.contains(&format!("`{module}.{name}`")), "{message}");
            assert!(message.contains("nothing was run"), "{message}");
        }
        for (module, name) in [
            ("torch.nn.modules.linear", "Linear"),
            ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
            ("pathlib", "PosixPath"),
            ("__builtin__", "set"),
            // Bound methods are written as `getattr` of an object and a name.
            ("builtins", "getattr"),
            ("osgeo", "thing"),
            ("torch.nn.modules.module", "Module.forward"),
            ("numpy.core.multiarray", "scalar"),
        ] {
            assert_eq!(known(module, name), Ok(Global::Opaque(format!("{module}.{name}").into())));
        }
        let message = known("torch._utils", "_rebuild_sparse_tensor").unwrap_err();
        assert!(message.contains("to_dense()"), "{message}");
    }
}
