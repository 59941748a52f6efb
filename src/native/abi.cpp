// The version of the C interface. Raise it together with ABI in icsbound/_native.py when a function or a struct that
// Python fills changes: a library built from older sources is then told apart instead of called wrongly.
extern "C" int icsbound_abi() { return 6; }
