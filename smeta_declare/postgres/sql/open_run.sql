insert into {journal}.run (id, environment, direction, request, versions, plan, saved, tool)
values (%(run)s, %(environment)s, %(direction)s, %(request)s, %(versions)s, %(plan)s, %(saved)s, %(tool)s);
