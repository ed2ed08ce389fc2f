// The units of a request as tasks of a device.
#ifndef SAGE_SERVER_UNIT_TASKS_H_
#define SAGE_SERVER_UNIT_TASKS_H_

#include <memory>

#include "kernels/attention.h"
#include "kernels/backend.h"
#include "server/resident_tensor.h"
#include "server/unit_plan.h"
#include "server/unit_work.h"

namespace sage::server {

// Externally synchronised.
class UnitTasks {
 public:
  // `problem` outlives it; the mask is that of `context`, once it has one.
  UnitTasks(const AttentionProblem& problem, ResidentOperands resident,
            std::shared_ptr<RequestContext> context);

  const AttentionProblem& problem() const { return problem_; }
  const ResidentOperands& resident() const { return resident_; }
  const std::shared_ptr<RequestContext>& context() const { return context_; }

  // Tasks point to what is resident; pointers to what travels are still null.
  AttendTask Make(const Unit& unit) const;
  KvTask MakeKv(const Unit& unit) const;
  // The group that resident k and v keep prepared for the unit, if they do.
  std::shared_ptr<KvGroup> KeptKv(const Unit& unit) const;
  // Of the request in its mask.
  MaskBegin mask_begin() const;

 private:
  const AttentionProblem& problem_;
  const ResidentOperands resident_;
  const std::shared_ptr<RequestContext> context_;
};

}  // namespace sage::server

#endif  // SAGE_SERVER_UNIT_TASKS_H_
