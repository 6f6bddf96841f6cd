"""Our kernel inside an engine of full TensorRT, in place of a launch between two engines.

The plan (psamf_edge.backends) is what we ship: it works on every flavour. These are for those who want one engine of
the whole fusion, and for full TensorRT only: TensorRT-RTX has no plugins, and a creator that is registered makes its
parser end the process.

    ahead_of_time     TensorRT 10.9 to 10.13 and 11: the kernel's PTX goes into the engine, which then needs no Python
    python_plugin     TensorRT 10.3 (JetPack 6) and later: an IPluginV3, whose enqueue launches the kernel
    onnx_node         makes a file with the node ready for either

What has been tried: the declarations are accepted by the real Python bindings of 10.3, 10.9, 10.13 and 11.4, imported
against libraries that do nothing (tests/test_plugin.py). No engine has been built with them, and none has run.
"""

NAMESPACE, NAME, VERSION = "psamf", "CrossModalAttention", "1"
