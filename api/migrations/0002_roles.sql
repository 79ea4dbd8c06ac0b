-- Which door an account goes through. What it may see behind it follows from who it is: memberships, cover, duty, guardianship.
alter table account drop constraint account_role_check;
alter table account add check (role in ('admin', 'security', 'audit', 'doctor', 'nurse', 'supervisor', 'hospital', 'sentinel', 'station',
                                        'resident'));
alter table account drop constraint account_check;
alter table account add check ((role in ('admin', 'security', 'audit')) = (refers_to is null));
