// The stages of a request by name, in the order of its way.
#ifndef SAGE_CLIENT_CLI_STAGE_TIMES_H_
#define SAGE_CLIENT_CLI_STAGE_TIMES_H_

#include <array>

#include "client/attend_request.h"

namespace sage::cli {

struct StageTime {
  const char* name;
  double seconds;
};

// What the server's trailer says, its total included, and last the call as the client saw it.
inline std::array<StageTime, 9> StageTimes(const AttendReport& report) {
  const StageSeconds& stages = report.stages;
  return {{{"recv", stages.recv},
           {"queue", stages.queue},
           {"h2d", stages.h2d},
           {"prepare", stages.prepare},
           {"kernel", stages.kernel},
           {"d2h", stages.d2h},
           {"send", stages.send},
           {"total", stages.total},
           {"wall", report.wall_seconds}}};
}

}  // namespace sage::cli

#endif  // SAGE_CLIENT_CLI_STAGE_TIMES_H_
