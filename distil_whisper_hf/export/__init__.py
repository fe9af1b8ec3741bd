"""An expert for programs that know no experts: plain Whisper, PEFT, CTranslate2, whisper.cpp, ONNX."""
