// The few symbols of CANN whose return value matters to MindSpore's Ascend plugin; see stub_cann.py for all others.
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace ge {
// Classes that are returned by value or destroyed by the caller: well formed, with nothing in them.
class AscendString {
 public:
  AscendString(const char *name);
  const char *GetString() const;

 private:
  std::shared_ptr<std::string> name_;
};
AscendString::AscendString(const char *name) : name_(name != nullptr ? new std::string(name) : nullptr) {}
const char *AscendString::GetString() const { return name_ ? name_->c_str() : ""; }

class Shape {
 public:
  Shape();
  Shape(const std::vector<int64_t> &);
  std::vector<int64_t> GetDims() const;

 private:
  std::shared_ptr<void> impl_;
};
Shape::Shape() {}
Shape::Shape(const std::vector<int64_t> &) {}
std::vector<int64_t> Shape::GetDims() const { return {}; }

enum Format : int;
enum DataType : int;

class TensorDesc {
 public:
  TensorDesc();
  TensorDesc(Shape, Format, DataType);
  TensorDesc(const TensorDesc &);
  TensorDesc(TensorDesc &&);
  Shape GetShape() const;

 private:
  std::shared_ptr<void> impl_;
};
TensorDesc::TensorDesc() {}
TensorDesc::TensorDesc(Shape, Format, DataType) {}
TensorDesc::TensorDesc(const TensorDesc &) {}
TensorDesc::TensorDesc(TensorDesc &&) {}
Shape TensorDesc::GetShape() const { return Shape(); }

class Tensor {
 public:
  Tensor();
  Tensor(const TensorDesc &);
  Tensor(const TensorDesc &, const uint8_t *, size_t);
  TensorDesc GetTensorDesc() const;

 private:
  std::shared_ptr<void> impl_;
};
Tensor::Tensor() {}
Tensor::Tensor(const TensorDesc &) {}
Tensor::Tensor(const TensorDesc &, const uint8_t *, size_t) {}
TensorDesc Tensor::GetTensorDesc() const { return TensorDesc(); }

class Operator {
 public:
  Operator() {}
  Operator(const std::string &);
  Operator(const std::string &, const std::string &);
  Operator(const AscendString &, const AscendString &);
  virtual ~Operator() = default;
  std::string GetName() const;
  std::string GetOpType() const;

 private:
  std::shared_ptr<void> impl_;
};
Operator::Operator(const std::string &) {}
Operator::Operator(const std::string &, const std::string &) {}
Operator::Operator(const AscendString &, const AscendString &) {}
std::string Operator::GetName() const { return ""; }
std::string Operator::GetOpType() const { return ""; }

class OperatorFactory {
 public:
  static Operator CreateOperator(const char *, const char *);
  static Operator CreateOperator(const std::string &, const std::string &);
};
Operator OperatorFactory::CreateOperator(const char *, const char *) { return Operator(); }
Operator OperatorFactory::CreateOperator(const std::string &, const std::string &) { return Operator(); }

// The plugin registers texts of errors here while it is loaded.
class StatusFactory {
 public:
  static StatusFactory *Instance();
  std::map<uint32_t, std::string> err_desc_;
};
StatusFactory *StatusFactory::Instance() {
  static StatusFactory factory;
  return &factory;
}
}  // namespace ge

extern "C" {
const char *aclrtGetSocName() { return "Ascend910B4"; }
}
